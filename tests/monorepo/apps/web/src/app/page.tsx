import { CourseCard } from '@repo/ui';
import { courses } from '@/lib/courses';

export default function Home() {
  return (
    <main>
      <img src="/logo.svg" alt="" width={48} height={48} />
      <h1>AI Whisperers</h1>
      <p>Short courses on working with language models.</p>
      {courses.map(({ slug, title, summary, minutes }) => (
        <CourseCard key={slug} href={`/courses/${slug}`} title={title} summary={summary} minutes={minutes} />
      ))}
    </main>
  );
}
