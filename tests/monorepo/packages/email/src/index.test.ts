import assert from 'node:assert/strict';
import { test } from 'node:test';
import { welcome } from './index.js';

test('the welcome mail names the reader and the course', () => {
  const mail = welcome({ name: 'Ada', email: 'ada@example.com', course: 'prompting' });
  assert.equal(mail.subject, 'Welcome to prompting');
  assert.match(mail.text, /^Hello Ada,/);
});
