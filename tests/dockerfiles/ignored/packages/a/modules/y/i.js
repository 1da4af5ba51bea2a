packages/a/node_modules/y/i.js
