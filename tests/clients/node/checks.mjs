// What a Node program expects of PostgreSQL: `node checks.mjs CHECK URL` prints "CHECK: ok" or fails.

import assert from "node:assert/strict";
import { once } from "node:events";

import pg from "pg";

const [name, connectionString] = process.argv.slice(2);

async function withClient(work) {
  const client = new pg.Client({ connectionString });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

const checks = {
  values: () =>
    withClient(async (client) => {
      const values = [7, "žluťoučký kůň", Buffer.from([0, 255, 10]), { a: [1, 2] }];
      const { rows } = await client.query("SELECT $1::int AS i, $2::text AS t, $3::bytea AS b, $4::jsonb AS j", values);
      assert.deepEqual(Object.values(rows[0]), values);
    }),

  prepared: () =>
    withClient(async (client) => {
      for (let n = 0; n < 50; n++) {
        const { rows } = await client.query({ name: "next", text: "SELECT $1::int + 1 AS n", values: [n] });
        assert.equal(rows[0].n, n + 1);
      }
      const { rows } = await client.query("SELECT count(*)::int AS n FROM pg_prepared_statements");
      assert.equal(rows[0].n, 1);
    }),

  notify: () =>
    withClient((listener) =>
      withClient(async (notifier) => {
        await listener.query("LISTEN news");
        const heard = once(listener, "notification");
        await notifier.query("NOTIFY news, 'good'");
        assert.equal((await heard)[0].payload, "good");
      }),
    ),

  // Queries sent one behind the other, without waiting for answers in between.
  stream: () =>
    withClient(async (client) => {
      const answers = await Promise.all([...Array(300).keys()].map((n) => client.query("SELECT $1::int AS n", [n])));
      assert.deepEqual(answers.map(({ rows }) => rows[0].n), [...Array(300).keys()]);
    }),

  large: () =>
    withClient(async (client) => {
      const { rows } = await client.query("SELECT repeat('x', 1048576) AS t FROM generate_series(1, 100)");
      assert.equal(rows.reduce((sum, { t }) => sum + t.length, 0), 100 * 1048576);
    }),

  cancel: () =>
    withClient((watcher) =>
      withClient(async (client) => {
        const { rows } = await client.query("SELECT pg_backend_pid() AS pid");
        const ends = assert.rejects(client.query("SELECT pg_sleep(100)"), { code: "57014" });
        const waiting = "SELECT 1 FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'";
        while ((await watcher.query(waiting, [rows[0].pid])).rowCount === 0);
        // What node-postgres offers for it: a connection of its own that carries the cancel request.
        const canceller = new pg.Connection({ host: client.host, port: client.port });
        canceller.connect(client.port, client.host);
        await once(canceller, "connect");
        canceller.cancel(client.processID, client.secretKey);
        await ends;
        assert.equal((await client.query("SELECT 1 AS n")).rows[0].n, 1);
      }),
    ),

  pool: async () => {
    const pool = new pg.Pool({ connectionString, max: 5 });
    const answers = await Promise.all([...Array(100).keys()].map((n) => pool.query("SELECT $1::int AS n", [n])));
    assert.deepEqual(answers.map(({ rows }) => rows[0].n), [...Array(100).keys()]);
    await pool.end();
  },
};

await checks[name]();
console.log(`${name}: ok`);
