// Plays OpenCode to the companion plugin: reads {plugin, steps} from standard input, prints one JSON result per step.
// Run under the Bun that is inside an OpenCode binary (BUN_BE_BUN=1); with IN_WORKER in a worker thread, as in a TUI.

import { lstatSync, readdirSync } from "node:fs"

if (Bun.isMainThread && Bun.env.IN_WORKER) {
  const worker = new Worker(import.meta.url, { env: { ...process.env, GIVEN: await Bun.stdin.text() } })
  worker.onmessage = ({ data }) => finish(data)
  await new Promise(() => {})
}
const { plugin, steps } = JSON.parse(process.env.GIVEN ?? (await Bun.stdin.text()))
const toasts = []
const served = []

const inner = async (request) => {
  const seen = { url: request.url, headers: Object.fromEntries(request.headers), body: await request.text() }
  served.push(seen)
  if (request.headers.has("slow")) {
    await Bun.sleep(400)
    seen.interrupted = request.signal.aborted
  }
  return Response.json({ path: new URL(request.url).pathname })
}
const answers = []
globalThis.fetch = Object.assign(async () => answers.shift(), { preconnect: () => "kept" })

const config = { fetch: inner, baseUrl: "http://localhost:4096/", headers: { Authorization: "Basic c2VjcmV0" } }
let history = async () => ({ data: [] }) // what a session holds
const clients = {
  usual: {
    _client: { getConfig: () => config },
    tui: { showToast: async ({ body }) => toasts.push(body) },
    session: { messages: () => history() },
  },
  bare: { _client: { getConfig: () => ({ baseUrl: config.baseUrl }) } },
  other: {},
}

const module = await import(plugin)
const loaded = []
for (const [, start] of Object.entries(module)) loaded.push(start) // as 1.0 does: every export is called

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
  request: async ({ url, init, status = 429, headers = {}, times = 1 }) => {
    if (times > 1) await actions.request({ url, init, status, headers, times: times - 1 })
    answers.push(new Response("body", { status, headers }))
    const response = await fetch(url, init)
    return { status: response.status, body: await response.text(), preconnect: fetch.preconnect() }
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
  about: async ({ doors }) => {
    const file = Bun.file(`${doors}/${process.pid}.json`)
    const about = (await file.exists()) ? await file.json() : null
    const modes = Object.fromEntries([...readdirSync(doors)].map((name) => [name.replace(/^\d+/, "PID"), lstatSync(`${doors}/${name}`).mode & 0o777]))
    return { about, modes, mode: lstatSync(doors).mode & 0o777, own: `${doors}/${process.pid}.sock` }
  },
  time: async ({ rounds, message }) => {
    const spent = []
    for (let i = 0; i < rounds; i++) {
      const output = { message: structuredClone(message), parts: [{}] }
      const began = Bun.nanoseconds()
      await hooks["chat.message"]({}, output)
      spent.push((Bun.nanoseconds() - began) / 1e6)
    }
    spent.sort((a, b) => a - b)
    return { median: spent[rounds >> 1], p99: spent[Math.floor(rounds * 0.99)] }
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
