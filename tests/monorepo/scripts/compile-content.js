// Compiles content/*.md into apps/web/src/generated/content.json.
// Plain Node, no dependencies, and the same bytes for the same content on every machine.
'use strict';

const fs = require('node:fs');
const path = require('node:path');

const root = path.join(__dirname, '..');
const source = path.join(root, 'content');
const target = path.join(root, 'apps/web/src/generated/content.json');

/** `01-how-models-learn.md` becomes the slug `how-models-learn`; the number gives the order. */
function compile(file) {
  const text = fs.readFileSync(path.join(source, file), 'utf8').replace(/\r\n/g, '\n');
  const match = /^---\n(.*?)\n---\n(.*)$/s.exec(text);
  if (!match) throw new Error(`content/${file}: it has to start with a "---" block`);

  const meta = {};
  for (const line of match[1].split('\n')) {
    const colon = line.indexOf(':');
    meta[line.slice(0, colon).trim()] = line.slice(colon + 1).trim();
  }
  for (const key of ['title', 'summary', 'minutes']) {
    if (!meta[key]) throw new Error(`content/${file}: "${key}" is missing`);
  }

  return {
    slug: file.replace(/^\d+-/, '').replace(/\.md$/, ''),
    title: meta.title,
    summary: meta.summary,
    minutes: Number(meta.minutes),
    blocks: match[2].split(/\n{2,}/).map((block) => block.trim()).filter(Boolean).map(toBlock),
  };
}

/** The little Markdown we use: headings, lists, paragraphs. */
function toBlock(block) {
  if (block.startsWith('## ')) return { type: 'heading', items: [block.slice(3)] };
  if (block.startsWith('- ')) return { type: 'list', items: block.slice(2).split(/\n- /) };
  return { type: 'paragraph', items: [block.replace(/\n/g, ' ')] };
}

const files = fs.readdirSync(source).filter((name) => name.endsWith('.md')).sort();
const courses = files.map(compile);

fs.mkdirSync(path.dirname(target), { recursive: true });
fs.writeFileSync(target, `${JSON.stringify({ courses }, null, 2)}\n`);
console.log(`${courses.length} courses -> ${path.relative(root, target)}`);
