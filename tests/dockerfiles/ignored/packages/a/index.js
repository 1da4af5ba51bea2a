packages/a/index.js
