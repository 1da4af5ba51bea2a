type Props = {
  href: string;
  title: string;
  summary: string;
  minutes: number;
};

export function CourseCard({ href, title, summary, minutes }: Props) {
  return (
    <article className="card">
      <h2>
        <a href={href}>{title}</a>
      </h2>
      <p>{summary}</p>
      <small>{`${minutes} minutes, at your own pace`}</small>
    </article>
  );
}
