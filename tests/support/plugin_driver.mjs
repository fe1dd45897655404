// Simulates OpenCode for the companion plugin: reads {plugin, steps} from standard input, prints one JSON result per step.
// It runs under the Bun inside an OpenCode binary (BUN_BE_BUN=1); with IN_WORKER in a worker thread, as in a TUI.

import { lstatSync, readdirSync, renameSync, utimesSync, writeFileSync } from "node:fs"

if (Bun.isMainThread && Bun.env.IN_WORKER) {
  const worker = new Worker(import.meta.url, { env: { ...process.env, GIVEN: await Bun.stdin.text() } })
  worker.onmessage = ({ data }) => finish(data)
  await new Promise(() => {})
}
const { plugin, steps } = JSON.parse(process.env.GIVEN ?? (await Bun.stdin.text()))
const toasts = []
const logged = []
const served = []

const framing = Bun.serve({
  port: 0, // how a request's body would be sent to a server: with its length, or in chunks
  fetch: ({ headers }) => Response.json([headers.get("content-length"), headers.get("transfer-encoding"), headers.get("connection")]),
})

const inner = async (request) => {
  const framed = request.headers.has("framed") && (await (await Bun.fetch(new Request(framing.url, request))).json())
  const seen = { url: request.url, headers: Object.fromEntries(request.headers), body: framed ? null : await request.text() }
  if (framed) seen.framed = framed
  served.push(seen)
  if (request.headers.has("slow")) {
    await Bun.sleep(400)
    seen.interrupted = request.signal.aborted
  }
  return Response.json({ path: new URL(request.url).pathname })
}
const answers = []
let ahead = 0 // ms by which the plugin's clock is ahead
const { now } = Date
Date.now = () => now() + ahead
globalThis.fetch = Object.assign(async () => answers.shift(), { preconnect: () => "kept" })

const config = { fetch: inner, baseUrl: "http://localhost:4096/", headers: { Authorization: "Basic c2VjcmV0" } }
let history = async () => ({ data: [] }) // the messages of a session
const clients = {
  usual: {
    _client: { getConfig: () => config },
    tui: { showToast: async ({ body }) => toasts.push(body) },
    session: { messages: () => history() },
    app: { log: async ({ body }) => logged.push(body.message) },
  },
  bare: { _client: { getConfig: () => ({ baseUrl: config.baseUrl }) } },
  other: {},
}

const module = await import(plugin)
const loaded = []
for (const [, start] of Object.entries(module)) loaded.push(start) // 1.0 calls every export

let hooks
const projects = {}
const results = []
const actions = {
  start: async ({ client = "usual", directory = "/project" }) => {
    hooks = Object.assign({}, ...(await Promise.all(loaded.map((start) => start({ client: clients[client], directory })))))
    projects[directory] = hooks
    return Object.keys(hooks).sort()
  },
  hook: async ({ name, input, output, directory }) => {
    await (directory ? projects[directory] : hooks)[name](input, output)
    return output ?? null
  },
  request: async ({ url, init, status = 429, headers = {}, content = "body", times = 1 }) => {
    if (times > 1) await actions.request({ url, init, status, headers, content, times: times - 1 })
    answers.push(new Response(content, { status, headers }))
    const response = await fetch(url, init)
    const body = await response.text()
    await Bun.sleep(0) // readers of the cloned response have reached its end
    return { status: response.status, body, preconnect: fetch.preconnect() }
  },
  // a streamed answer, as the SDKs read it: each piece comes `after` ms of the plugin's clock; `cancel` stops after that many
  stream: async ({ url, init, headers, pieces, fails, cancel = Infinity }) => {
    let cancelled
    const left = [...pieces]
    const pull = (controller) => {
      const [after, text] = left.shift() ?? []
      ahead += after ?? 0
      if (text !== undefined) controller.enqueue(new TextEncoder().encode(text))
      else if (fails) controller.error(new Error(fails))
      else controller.close()
    }
    const source = new ReadableStream({ pull, cancel: (why) => void (cancelled = why) }, { highWaterMark: 0 })
    answers.push(new Response(source, { status: 200, headers }))
    const response = await fetch(url, init)
    if (!response.body || response.bodyUsed) throw new Error("the body is used before it is read")
    const read = []
    try {
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
      for (let part; read.length < cancel && !(part = await reader.read()).done; ) read.push(part.value)
      if (read.length >= cancel) await reader.cancel("enough")
      for (let round = 0; read.length >= cancel && !cancelled && round < 200; round++) await Bun.sleep(10) // through the decoder
    } catch (fault) {
      return { read, failed: fault.message }
    }
    return { read, cancelled }
  },
  through: async ({ socket, path, init }) => {
    const own = `${socket}/${process.pid}.sock`
    const response = await Bun.fetch(`http://localhost${path}`, { unix: own, ...init })
    return { status: response.status, json: await response.json(), served: served.at(-1) }
  },
  leave: async ({ socket, path }) => {
    const asker = new AbortController()
    const own = `${socket}/${process.pid}.sock`
    const asked = Bun.fetch(`http://localhost${path}`, { unix: own, headers: { slow: "yes" }, signal: asker.signal })
    await Bun.sleep(100)
    asker.abort()
    await asked.catch(() => {})
    await Bun.sleep(600)
    return served.at(-1).interrupted
  },
  history: async ({ data, hangs }) => void (history = () => (hangs ? new Promise(() => {}) : Promise.resolve({ data }))),
  toasts: async () => toasts,
  logged: async () => logged,
  about: async ({ doors }) => {
    const file = Bun.file(`${doors}/${process.pid}.json`)
    const about = (await file.exists()) ? await file.json() : null
    const entries = readdirSync(doors).map((name) => [name.replace(/^\d+/, "PID"), lstatSync(`${doors}/${name}`)])
    const modes = Object.fromEntries(entries.map(([name, info]) => [name, info.mode & 0o777]))
    const owners = Object.fromEntries(entries.map(([name, info]) => [name, info.uid]))
    return { about, modes, owners, mode: lstatSync(doors).mode & 0o777, own: `${doors}/${process.pid}.sock` }
  },
  // writes in place, with the same length and time as before if `text` and `seconds` are such
  rewrite: async ({ path, text, seconds }) => {
    if (text) writeFileSync(path, text)
    utimesSync(path, seconds, seconds)
  },
  swap: async ({ one, other }) => {
    renameSync(one, `${one}.away`)
    renameSync(other, one)
  },
  soon: async ({ ms, path, text }) => {
    setTimeout(async () => {
      await Bun.write(`${path}.new`, text)
      renameSync(`${path}.new`, path)
    }, ms)
  },
  write: async ({ path, text }) => void (await Bun.write(path, text)),
  sleep: async ({ ms }) => void (await Bun.sleep(ms)),
}
for (const { act, ...rest } of steps) {
  try {
    results.push((await actions[act](rest)) ?? null)
  } catch (fault) {
    results.push({ thrown: String(fault) })
  }
}
if (Bun.isMainThread) finish(JSON.stringify(results))
else postMessage(JSON.stringify(results))

function finish(text) {
  console.log(text)
  process.exit(0)
}
