import sharp from 'sharp';
import { courses } from '@/lib/courses';

/** A cover image per course, drawn with sharp: a native module that has to match the libc it runs on. */
export async function GET(_request: Request, { params }: { params: Promise<{ slug: string }> }) {
  const { slug } = await params;
  const index = courses.findIndex((course) => course.slug === slug);
  if (index < 0) return new Response('no such course', { status: 404 });

  const hue = 250 + index * 40;
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="640" height="160">
    <linearGradient id="g"><stop stop-color="hsl(${hue},60%,45%)"/><stop offset="1" stop-color="hsl(${hue + 50},70%,65%)"/></linearGradient>
    <rect width="640" height="160" fill="url(#g)"/>
  </svg>`;
  const png = await sharp(Buffer.from(svg)).png().toBuffer();
  return new Response(new Uint8Array(png), { headers: { 'content-type': 'image/png' } });
}
