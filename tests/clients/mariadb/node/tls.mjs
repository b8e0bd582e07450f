// Connects as the JSON on standard input says and prints what the engine says of the session's TLS: `node tls.mjs DRIVER`.

import { readFileSync } from "node:fs";

import mariadb from "mariadb";
import mysql2 from "mysql2/promise";

const sql = "SHOW STATUS LIKE 'Ssl_cipher'";
const told = JSON.parse(readFileSync(0, "utf8"));
if (process.argv[2] === "mysql2") {
  const client = await mysql2.createConnection(told);
  const [[{ Value }]] = await client.query(sql);
  console.log(JSON.stringify({ cipher: Value, encrypts: client.connection.stream.encrypted === true }));
  await client.end();
} else {
  const client = await mariadb.createConnection(told);
  const [{ Value }] = await client.query(sql);
  // The driver does not show its socket; that it asked for TLS and got a session says it.
  console.log(JSON.stringify({ cipher: Value, encrypts: told.ssl !== false }));
  await client.end();
}
