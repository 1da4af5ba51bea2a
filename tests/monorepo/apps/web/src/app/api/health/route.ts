// Per request, so that it answers for this process and not for the build.
export const dynamic = 'force-dynamic';

export function GET() {
  return Response.json({ status: 'ok', uptime: Math.round(process.uptime()) });
}
