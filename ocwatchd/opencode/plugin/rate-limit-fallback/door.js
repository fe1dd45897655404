// ocwatchd companion plugin, version 1
//
// The door: OpenCode's own HTTP API on a unix socket in our private directory, for the daemon of the same user.

import { chmodSync, lstatSync, rmSync } from "node:fs"

const REOPEN = 3000 // ms after the last project was closed: the process ends within 2 s, or goes on and wants its door

export function part({ shared, doors, ownFile, describe, privateDirectory, attempt, note }) {
  const removeFiles = () => ["sock", "json"].forEach((kind) => rmSync(ownFile(kind), { force: true }))
  const socket = () => lstatSync(ownFile("sock"), { throwIfNoEntry: false })

  /** Whether this process has a door already: 1.14's TUI loads plugins in its main thread too, where no session runs. */
  const elsewhere = () => globalThis.Bun?.isMainThread && !shared.door && socket()?.mtimeMs > started()
  const started = () => Date.now() - process.uptime() * 1000 // an older socket is of a dead process of the same pid

  function open({ fetch: inner, baseUrl, headers }) {
    if (shared.door || shared.about.door === false) return
    if (typeof inner !== "function" || !baseUrl || typeof Bun === "undefined") {
      describe({ door: false })
      return note("door", "this OpenCode's plugin client has no fetch")
    }
    privateDirectory(doors)
    rmSync(ownFile("sock"), { force: true }) // left behind by a dead process of the same pid
    shared.door = Bun.serve({
      unix: ownFile("sock"),
      idleTimeout: 0, // event streams may be silent for longer than the usual 10 s
      fetch: (request) => pass(request, inner, baseUrl, headers),
      error: () => new Response("the door failed", { status: 502 }),
    })
    chmodSync(ownFile("sock"), 0o600)
    shared.inode = socket()?.ino
    describe({ door: true })
    if (!shared.tidy) process.on("exit", (shared.tidy = () => attempt("exit", removeFiles)))
  }

  /** For good if the process ends now; else it is opened again. */
  function close(config) {
    if (!shared.door) return
    if (socket()?.ino === shared.inode) removeFiles() // else a worker thread, where sessions run, has put its own there
    shared.door.stop()
    shared.door = undefined
    setTimeout(() => attempt("reopen", () => open(config)), REOPEN).unref?.()
  }

  return { elsewhere, open, close }
}

/** Hand a request to OpenCode as if it had come over TCP, with the password if there is one. */
function pass(request, inner, baseUrl, own) {
  const { pathname, search } = new URL(request.url)
  const headers = new Headers(request.headers)
  const authorization = new Headers(own ?? {}).get("authorization") ?? ownPassword()
  if (authorization) headers.set("authorization", authorization)
  headers.delete("host")
  headers.set("accept-encoding", "identity") // an inner fetch over TCP would unpack the body and keep the header
  const { method } = request
  // An asker that gives up must not interrupt what it asked for: 1.14.48 was loading its providers for a prompt, too,
  // and that one was then never run. An event stream ends with its listener.
  const signal = pathname.endsWith("/event") ? request.signal : undefined
  const body = method === "GET" || method === "HEAD" ? undefined : request.body
  const url = String(baseUrl).replace(/\/+$/, "") + pathname + search
  return inner(new Request(url, { method, headers, body, signal, duplex: "half" }))
}

/** 1.1 guards its server with the password, and does not give it to its own plugins' client. */
function ownPassword() {
  const { OPENCODE_SERVER_PASSWORD: password, OPENCODE_SERVER_USERNAME: user } = process.env
  return password && `Basic ${Buffer.from(`${user || "opencode"}:${password}`).toString("base64")}`
}
