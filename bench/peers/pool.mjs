// Connections to PostgreSQL, all open from the start.
import pg from 'pg';

const { DATABASE_POOL_SIZE, DATABASE_URL } = process.env;

export function openPool() {
  const size = Number(DATABASE_POOL_SIZE);
  return new pg.Pool({ connectionString: DATABASE_URL, max: size, min: size, idleTimeoutMillis: 0 });
}
