// ocwatchd companion plugin, version 1
//
// The endpoint: serves OpenCode's own HTTP API on a unix socket in our private directory, for the same user's daemon.

import { chmodSync, rmSync } from "node:fs"

// ms from the closing of the last project until the endpoint is reopened; a process that is ending exits within 2 s
const REOPEN = 3000

export function part({ shared, endpoints, ownFile, describe, privateDirectory, statOf, attempt, note }) {
  const removeFiles = () => ["sock", "json"].forEach((kind) => rmSync(ownFile(kind), { force: true }))
  const socket = () => statOf(ownFile("sock"))

  /**
   * Return whether this is the main thread of a process whose worker thread has opened the endpoint: 1.14's TUI loads
   * plugins in its main thread as well, where no session runs.
   */
  const inMainThread = () => globalThis.Bun?.isMainThread && !shared.door && socket()?.mtimeMs > started()
  const started = () => Date.now() - process.uptime() * 1000 // an older socket is from a dead process with the same pid

  function open({ fetch: inner, baseUrl, headers }) {
    if (shared.door || shared.about.door === false) return
    if (typeof inner !== "function" || !baseUrl || typeof Bun === "undefined") {
      describe({ door: false })
      return note("door", "this OpenCode's plugin client has no fetch")
    }
    privateDirectory(endpoints)
    rmSync(ownFile("sock"), { force: true }) // left behind by a dead process with the same pid
    shared.door = Bun.serve({
      unix: ownFile("sock"),
      idleTimeout: 0, // an event stream may be silent for longer than the default of 10 s
      fetch: (request) => pass(request, inner, baseUrl, headers),
      error: () => new Response("the endpoint failed", { status: 502 }),
    })
    chmodSync(ownFile("sock"), 0o600)
    shared.inode = socket()?.ino
    describe({ door: true })
    if (!shared.tidy) process.on("exit", (shared.tidy = () => attempt("exit", removeFiles)))
  }

  /** Close the endpoint; reopen it after REOPEN if the process is still running. */
  function close(config) {
    if (!shared.door) return
    if (socket()?.ino === shared.inode) removeFiles() // a socket with another inode belongs to a worker thread
    shared.door.stop()
    shared.door = undefined
    setTimeout(() => attempt("reopen", () => open(config)), REOPEN).unref?.()
  }

  return { inMainThread, open, close }
}

/** Pass a request to OpenCode as if it had arrived over TCP, with the server's password if it has one. */
async function pass(request, inner, baseUrl, own) {
  const { pathname, search } = new URL(request.url)
  const headers = new Headers(request.headers)
  const authorization = new Headers(own ?? {}).get("authorization") ?? ownPassword()
  if (authorization) headers.set("authorization", authorization)
  headers.delete("host")
  headers.set("accept-encoding", "identity") // a fetch over TCP unpacks the body but keeps the header
  const { method } = request
  // A client that gives up must not abort its request: 1.14.48 was also loading its providers for a prompt, which then
  // never ran. Only an event stream ends with its client.
  const signal = pathname.endsWith("/event") ? request.signal : undefined
  // The body is sent in one piece and over a new connection: in `serve` 1.18.33 up to a third of the requests that reused
  // a connection after an abort got no response.
  const body = method === "GET" || method === "HEAD" ? undefined : await request.arrayBuffer()
  headers.set("connection", "close")
  const url = String(baseUrl).replace(/\/+$/, "") + pathname + search
  return inner(new Request(url, { method, headers, body, signal }))
}

/** Return the Authorization value from the environment: 1.1 does not pass the password to its plugins' client. */
function ownPassword() {
  const { OPENCODE_SERVER_PASSWORD: password, OPENCODE_SERVER_USERNAME: user } = process.env
  return password && `Basic ${Buffer.from(`${user || "opencode"}:${password}`).toString("base64")}`
}
