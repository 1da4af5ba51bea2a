import { PrismaPg } from '@prisma/adapter-pg';
import { PrismaClient } from './generated/client';

export type { Lead } from './generated/client';

let client: PrismaClient | undefined;

/** Connects on first use, so that importing this package (as `next build` does) needs no database. */
export function db(): PrismaClient {
  if (!client) {
    const connectionString = process.env.DATABASE_URL;
    if (!connectionString) throw new Error('DATABASE_URL is not set');
    client = new PrismaClient({ adapter: new PrismaPg({ connectionString }) });
  }
  return client;
}
