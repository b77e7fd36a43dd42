// A receiver of callbacks: it checks the signature, drops repetitions, and answers at once.
//
//     npm install standardwebhooks
//     SECRET=whsec_... node receiver.mjs 8000
//
// It prints a line for each new callback. Behind a reverse proxy with TLS it is reached by https.

import { createServer } from "node:http";
import { createRequire } from "node:module";

// From the folder that the program is started in, so that it may stand anywhere.
const require = createRequire(`${process.cwd()}/`);
const { Webhook } = require("standardwebhooks");

const MAX_BODY = 1024 * 1024; // bytes; callbacks.max_payload is 256 KiB by default
const webhook = new Webhook(process.env.SECRET);
const seen = new Set(); // keep it in your database, with what you did

const server = createServer(async (request, response) => {
  const pieces = [];
  let size = 0;
  for await (const piece of request) {
    size += piece.length;
    if (size > MAX_BODY) {
      response.writeHead(413).end();
      return;
    }
    pieces.push(piece);
  }
  let event;
  try {
    event = webhook.verify(Buffer.concat(pieces).toString(), request.headers); // as it came
  } catch {
    response.writeHead(400).end();
    return;
  }
  const ident = request.headers["webhook-id"];
  if (!seen.has(ident)) {
    seen.add(ident);
    console.log(ident, event.data.id, event.data.status);
  }
  response.writeHead(204).end();
});

server.listen(Number(process.argv[2]), "127.0.0.1", () => {
  console.log("listening on port", server.address().port);
});
