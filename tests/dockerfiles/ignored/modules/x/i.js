node_modules/x/i.js
