// Lists the leads as plain text, each with the mail that it would get.
import { createServer } from 'node:http';
import { welcome, type Recipient } from '@repo/email';

const webUrl = process.env.WEB_URL ?? 'http://127.0.0.1:3000';
const port = Number(process.env.PORT ?? 3001);

async function report(): Promise<string> {
  const answer = await fetch(new URL('/api/leads', webUrl));
  if (!answer.ok) throw new Error(`the site answered ${answer.status}`);
  const { leads } = (await answer.json()) as { leads: Recipient[] };
  return leads.map((lead) => `${lead.email}\n${welcome(lead).text}`).join('\n') || 'No leads yet.\n';
}

createServer(async (_request, response) => {
  response.setHeader('content-type', 'text/plain; charset=utf-8');
  try {
    response.end(await report());
  } catch (error) {
    response.statusCode = 502;
    response.end(`${error}\n`);
  }
}).listen(port, '127.0.0.1', () => console.log(`admin on http://127.0.0.1:${port}`));
