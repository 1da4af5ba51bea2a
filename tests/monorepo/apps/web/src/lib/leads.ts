import { db, type Lead } from '@repo/database';
import { findCourse } from './courses';

export class InvalidLead extends Error {}

/** Checks what a stranger sent, and stores it. */
export async function createLead(input: Record<string, unknown>): Promise<Lead> {
  const { name, email, course } = input;
  if (typeof name !== 'string' || !name.trim()) throw new InvalidLead('"name" is missing');
  if (typeof email !== 'string' || !/^\S+@\S+$/.test(email)) throw new InvalidLead('"email" is not an address');
  if (typeof course !== 'string' || !findCourse(course)) throw new InvalidLead('there is no such course');
  return db().lead.create({ data: { name: name.trim(), email, course } });
}

export function listLeads(): Promise<Lead[]> {
  return db().lead.findMany({ orderBy: { createdAt: 'desc' }, take: 100 });
}
