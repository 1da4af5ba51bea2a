export function Footer() {
  return <footer>Made by people who whisper to machines.</footer>;
}
