// What a Node program expects of MariaDB: `node checks.mjs DRIVER [CHECK...]` takes where to connect as JSON on standard
// input, and prints "CHECK: ok" for each check or fails. What the two drivers name differently is in `drivers`.

import assert from "node:assert/strict";
import { createReadStream, readFileSync } from "node:fs";

import mariadb from "mariadb";
import mysql2 from "mysql2/promise";

const [name, ...chosen] = process.argv.slice(2);
const { file, odd, procedure, ...told } = JSON.parse(readFileSync(0, "utf8"));
const MEGABYTE = 1024 * 1024;
const ATTRIBUTES = Object.fromEntries([...Array(40).keys()].map((n) => [`attribute ${n}`, "žluť ".repeat(20)]));

const drivers = {
  mysql2: {
    connect: (more = {}) => mysql2.createConnection({ ...told, ...more }),
    loads: { infileStreamFactory: (path) => createReadStream(path) },
    attributes: { connectAttributes: ATTRIBUTES },
    pool: () => mysql2.createPool({ ...told, connectionLimit: 5 }),
    query: async (client, sql, values) => (await client.query(sql, values))[0],
    execute: async (client, sql, values) => (await client.execute(sql, values))[0],
    stream: (client, sql) => client.connection.query(sql).stream(),
    code: (error) => error.errno,
  },
  mariadb: {
    connect: (more = {}) => mariadb.createConnection({ ...told, bigIntAsNumber: true, decimalAsNumber: true, ...more }),
    loads: { permitLocalInfile: true },
    attributes: { connectAttributes: ATTRIBUTES },
    pool: () => mariadb.createPool({ ...told, bigIntAsNumber: true, connectionLimit: 5 }),
    query: (client, sql, values) => client.query(sql, values),
    execute: (client, sql, values) => client.execute(sql, values),
    stream: (client, sql) => client.queryStream(sql),
    code: (error) => error.errno,
  },
};
const { connect, loads, attributes, pool, query, execute, stream, code } = drivers[name];

async function withClient(work, more) {
  const client = await connect(more);
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

const checks = {
  prepared: () =>
    withClient(async (client) => {
      const values = [7, "žluť \u{1F40E} '\"\\", Buffer.from([0, 255, 10]), null];
      await query(client, "CREATE TEMPORARY TABLE t (i INT, s TEXT, b BLOB, n INT)");
      await execute(client, "INSERT INTO t VALUES (?, ?, ?, ?)", values);
      const rows = await execute(client, "SELECT * FROM t WHERE i = ?", [7]);
      assert.deepEqual(Object.values(rows[0]), values);
      for (let n = 0; n < 50; n++) {
        assert.equal((await execute(client, "SELECT ? + 1 AS n", [n]))[0].n, n + 1);
      }
      const [{ Value }] = await query(client, "SHOW SESSION STATUS LIKE 'Com_stmt_prepare'");
      assert.equal(Number(Value), 3);
    }),

  // Queries sent one behind the other, without waiting for answers in between.
  pipeline: () =>
    withClient(async (client) => {
      const numbers = [...Array(300).keys()];
      const answers = await Promise.all(numbers.map((n) => query(client, "SELECT ? AS n", [n])));
      assert.deepEqual(answers.map(([{ n }]) => n), numbers);
    }),

  stream: () =>
    withClient(async (client) => {
      let received = 0;
      for await (const { t } of stream(client, "SELECT REPEAT('x', 50000) AS t FROM seq_1_to_2000")) received += t.length;
      assert.equal(received, 100_000_000);
    }),

  huge: () =>
    withClient(async (client) => {
      const value = Buffer.alloc(20 * MEGABYTE, "0123456789abcdef");
      const [{ b }] = await query(client, "SELECT CAST(? AS BINARY) AS b", [value]);
      assert.ok(value.equals(Buffer.from(b)));
    }, { maxAllowedPacket: 64 * MEGABYTE }),

  compressed: () =>
    withClient(async (client) => {
      const [{ Value }] = await query(client, "SHOW STATUS LIKE 'Compression'");
      assert.equal(Value, "ON");
      const rows = await query(client, "SELECT REPEAT(seq, 10000) AS t FROM seq_1_to_1000");
      assert.ok(rows.every(({ t }, n) => t === String(n + 1).repeat(10000)));
      assert.equal((await query(client, "SELECT LENGTH(?) AS n", ["y".repeat(MEGABYTE)]))[0].n, MEGABYTE);
    }, { compress: true }),

  procedure: () =>
    withClient(async (client) => {
      await query(client, procedure);
      await query(client, "SET @counted = 7");
      const [first, second] = await query(client, `CALL of_${name}(21, @doubled, @counted)`);
      assert.deepEqual([first, second].map((rows) => rows.map((row) => Object.values(row)[0])), [[21], [1, 2, 3]]);
      const [row] = await query(client, "SELECT @doubled AS d, @counted AS c");
      assert.deepEqual([Number(row.d), Number(row.c)], [42, 8]);
    }),

  several: () =>
    withClient(async (client) => {
      const [one, , two] = await query(client, "SELECT 1 AS n; SET @a = 2; SELECT @a AS n");
      assert.deepEqual([one[0].n, Number(two[0].n)], [1, 2]);
    }, { multipleStatements: true }),

  load: () =>
    withClient(async (client) => {
      await query(client, "CREATE TEMPORARY TABLE loaded (n INT, t TEXT)");
      const sql = `LOAD DATA LOCAL INFILE '${file}' INTO TABLE loaded`;
      await query(client, name === "mysql2" ? { sql, ...loads } : sql);
      const [row] = await query(client, "SELECT CAST(SUM(n) AS INT) AS s, COUNT(*) AS c FROM loaded");
      assert.deepEqual([row.s, row.c], [12497500, 5000]);
    }, loads),

  transaction: () =>
    withClient(async (client) => {
      await query(client, `CREATE OR REPLACE TABLE of_${name} (n INT)`);
      for (const [n, finish] of [[1, "commit"], [2, "rollback"]]) {
        await client.beginTransaction();
        await query(client, `INSERT INTO of_${name} VALUES (?)`, [n]);
        await client[finish]();
      }
      assert.deepEqual((await query(client, `SELECT n FROM of_${name}`)).map(({ n }) => n), [1]);
    }),

  kill: () =>
    withClient((watcher) =>
      withClient(async (client) => {
        const [{ id }] = await query(client, "SELECT CONNECTION_ID() AS id");
        const ends = assert.rejects(query(client, "SELECT SLEEP(100)"), (error) => code(error) === 1317);
        const begun = "SELECT 1 FROM information_schema.processlist WHERE id = ? AND info LIKE 'SELECT SLEEP%'";
        while ((await query(watcher, begun, [id])).length === 0);
        await query(watcher, `KILL QUERY ${id}`);
        await ends;
        assert.equal((await query(client, "SELECT 1 AS n"))[0].n, 1);
      }),
    ),

  change: () =>
    withClient((owner) =>
      withClient(async (client) => {
        await query(owner, "CREATE OR REPLACE USER ?@'%' IDENTIFIED BY ?", [odd.user, odd.password]);
        await query(owner, `GRANT SELECT ON ${told.database}.* TO ?@'%'`, [odd.user]);
        await client.changeUser({ ...odd, database: told.database });
        const [row] = await query(client, "SELECT CURRENT_USER() AS u, DATABASE() AS d");
        assert.deepEqual(Object.values(row), [`${odd.user}@%`, told.database]);
        await query(owner, "DROP USER ?@'%'", [odd.user]);
      }),
    ),

  reset: () =>
    withClient(async (client) => {
      await query(client, "SET @mine = 1");
      await client.reset();
      assert.equal((await query(client, "SELECT @mine AS m"))[0].m, null);
      await client.ping();
    }),

  attributes: () =>
    withClient(async (client) => {
      assert.equal((await query(client, "SELECT 1 AS n"))[0].n, 1);
    }, attributes),

  // Many rows in one COM_STMT_BULK_EXECUTE, which only MariaDB's own driver has.
  batch: () =>
    withClient(async (client) => {
      await query(client, "CREATE TEMPORARY TABLE many (n INT, t TEXT)");
      if (name === "mariadb") {
        await client.batch("INSERT INTO many VALUES (?, ?)", [...Array(5000).keys()].map((n) => [n, `row ${n}`]));
      } else {
        await query(client, "INSERT INTO many VALUES ?", [[...Array(5000).keys()].map((n) => [n, `row ${n}`])]);
      }
      assert.equal((await query(client, "SELECT CAST(SUM(n) AS INT) AS s FROM many"))[0].s, 12497500);
    }),

  pool: async () => {
    const made = pool();
    const numbers = [...Array(100).keys()];
    const answers = await Promise.all(numbers.map((n) => query(made, "SELECT ? AS n", [n])));
    assert.deepEqual(answers.map(([{ n }]) => n), numbers);
    await made.end();
  },
};

for (const check of chosen.length ? chosen : Object.keys(checks)) {
  try {
    await checks[check]();
  } catch (error) {
    console.error(`${check}: ${error.stack}`);
    process.exit(1);
  }
  console.log(`${check}: ok`);
}
