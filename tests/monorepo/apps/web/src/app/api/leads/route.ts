import { createLead, InvalidLead, listLeads } from '@/lib/leads';

export const dynamic = 'force-dynamic';

// An example: a real site would ask who is reading before it lists anybody.
export function GET() {
  return answer(async () => Response.json({ leads: await listLeads() }));
}

export function POST(request: Request) {
  return answer(async () => {
    const input = await request.json().catch(() => {
      throw new InvalidLead('the body is not JSON');
    });
    return Response.json({ lead: await createLead(Object(input)) }, { status: 201 });
  });
}

async function answer(work: () => Promise<Response>): Promise<Response> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof InvalidLead) return Response.json({ error: error.message }, { status: 400 });
    console.error(error);
    return Response.json({ error: 'the database does not answer' }, { status: 503 });
  }
}
