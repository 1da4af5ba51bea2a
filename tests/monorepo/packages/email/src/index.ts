import mustache from 'mustache';

const template = `Hello {{{name}}},

you asked for "{{{course}}}". The first lesson is on its way to {{{email}}}.

The AI Whisperers
`;

export type Recipient = { name: string; email: string; course: string };

export function welcome(recipient: Recipient): { subject: string; text: string } {
  return {
    subject: `Welcome to ${recipient.course}`,
    text: mustache.render(template, recipient),
  };
}
