import { notFound, redirect } from 'next/navigation';
import { findCourse, type Course } from '@/lib/courses';
import { createLead } from '@/lib/leads';

// Rendered per request: the form holds encrypted data that should not be the same for everybody.
export const dynamic = 'force-dynamic';

type Props = {
  params: Promise<{ slug: string }>;
  searchParams: Promise<{ enrolled?: string }>;
};

export default async function CoursePage({ params, searchParams }: Props) {
  const { slug } = await params;
  const { enrolled } = await searchParams;
  const course = findCourse(slug);
  if (!course) notFound();

  // Next sends `slug` to the browser encrypted with the server actions key, and gets it back here.
  async function enroll(form: FormData) {
    'use server';
    await createLead({ name: form.get('name'), email: form.get('email'), course: slug });
    redirect(`/courses/${slug}?enrolled=1`);
  }

  return (
    <main>
      <a href="/">All courses</a>
      <h1>{course.title}</h1>
      <img className="cover" src={`/api/cover/${slug}`} alt="" width={640} height={160} />
      {course.blocks.map((block, index) => (
        <Block key={index} block={block} />
      ))}
      {enrolled ? (
        <p>Thank you. The first lesson is on its way.</p>
      ) : (
        <form action={enroll}>
          <input name="name" placeholder="Your name" required />
          <input name="email" type="email" placeholder="Your e-mail address" required />
          <button>Enrol</button>
        </form>
      )}
    </main>
  );
}

function Block({ block }: { block: Course['blocks'][number] }) {
  switch (block.type) {
    case 'heading':
      return <h2>{block.items}</h2>;
    case 'list':
      return <ul>{block.items.map((item) => <li key={item}>{item}</li>)}</ul>;
    default:
      return <p>{block.items}</p>;
  }
}
