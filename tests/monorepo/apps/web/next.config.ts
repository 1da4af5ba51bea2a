import path from 'node:path';
import type { NextConfig } from 'next';

const config: NextConfig = {
  // .next/standalone holds a server with just the modules that it uses.
  output: 'standalone',
  // Trace from the root of the monorepo, so that packages/* and the pnpm store are found.
  outputFileTracingRoot: path.join(__dirname, '../..'),
  // These packages are TypeScript sources, compiled together with the app.
  transpilePackages: ['@repo/database', '@repo/ui'],
  // An image build gives the id of its inputs; without it Next makes up a random one.
  generateBuildId: () => process.env.WBUILD_BUILD_ID || null,
};

export default config;
