import content from '@/generated/content.json';

export type Course = (typeof content.courses)[number];

export const courses: Course[] = content.courses;

export function findCourse(slug: string): Course | undefined {
  return courses.find((course) => course.slug === slug);
}
