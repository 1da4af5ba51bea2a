// The first API of the site: "contacts" in place of leads. It stays until the last client has moved.
import express from 'express';

type Lead = { id: string; name: string; email: string };

const webUrl = process.env.WEB_URL ?? 'http://127.0.0.1:3000';
const port = Number(process.env.PORT ?? 3002);

const app = express();

app.get('/v1/contacts', async (_request, response) => {
  const answer = await fetch(new URL('/api/leads', webUrl));
  if (!answer.ok) {
    response.status(502).json({ error: `the site answered ${answer.status}` });
    return;
  }
  const { leads } = (await answer.json()) as { leads: Lead[] };
  response.json(leads.map((lead) => ({ contact_id: lead.id, full_name: lead.name, mail: lead.email })));
});

app.listen(port, () => console.log(`legacy API on port ${port}`));
