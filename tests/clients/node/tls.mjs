// Connects as the JSON on standard input says and runs one query: `node tls.mjs QUERY`.

import { readFileSync } from "node:fs";

import pg from "pg";

const client = new pg.Client(JSON.parse(readFileSync(0, "utf8")));
await client.connect();
const { rows } = await client.query(process.argv[2]);
console.log(JSON.stringify({ rows, encrypts: client.connection.stream.encrypted === true }));
await client.end();
