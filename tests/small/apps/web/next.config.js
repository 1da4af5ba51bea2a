const path = require('node:path');

module.exports = {
  output: 'standalone',
  outputFileTracingRoot: path.join(__dirname, '../..'),
  generateBuildId: () => process.env.WBUILD_BUILD_ID,
};
