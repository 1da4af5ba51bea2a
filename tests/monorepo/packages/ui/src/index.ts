export { CourseCard } from './course-card';
export { Footer } from './footer';
