// ocwatchd companion plugin, version 1
//
// Skips fallbacks that cannot continue the session: its context would overflow the model's window, or the model does not
// support its content. The daemon's moves use the same rules (core/domain/capability.py,
// opencode/sessions/snapshots.py). The capabilities of models come from the blacklist, the content of the session from
// OpenCode. A model whose capabilities are unknown is not skipped.

import { join } from "node:path"

const ROOM = 8 // at most an eighth of the window is reserved for the answer
const CHARS_PER_TOKEN = 4 // for text without a token count
const FACTS_CAP = 1 << 20 // bytes, as in answers.js
const FEW = 4 // number of last messages that are read, as in the daemon
const ANSWER_TIMEOUT = 1000 // ms for OpenCode's answer; after that the prompt continues without it
const MEDIA = ["image", "audio", "video"]

export function part({ state, listed, attempt, privateDirectory, append }) {
  const facts = join(state, "facts")

  /** Return the fallback that `select` chooses for the session's needs; undefined if no fallback can take the session. */
  async function choose(asked, session, parts, client, select) {
    const { target: first } = select()
    const capabilities = listed()?.capabilities ?? {}
    if (!first || !capabilities[first.model]) return first
    const needs = await within(needsOf(client, session, parts))
    if (!needs) return first
    const { target, refused } = select((model) => unfit(needs, capabilities[model]))
    if (refused.length) recordSkipped(asked, target, session, refused)
    return target
  }

  /** Record the skipped fallbacks for `ocwatch explain`. */
  function recordSkipped(model, target, session, passed) {
    const fact = { version: 1, time: new Date().toISOString(), pid: process.pid, session, prevented: model }
    const line = JSON.stringify({ ...fact, target: target?.model ?? null, passed })
    attempt("facts", () => {
      privateDirectory(facts)
      append(join(facts, `${process.pid}.jsonl`), line, FACTS_CAP)
    })
  }

  return { choose }
}

/** Return why the model cannot take a session with these needs; undefined if it can, or if that is unknown. */
function unfit({ tokens, inputs, tools }, capacity) {
  const { context, output, inputs: understood, tools: calls } = capacity ?? {}
  const room = Math.min(output || 0, Math.floor(context / ROOM))
  const [holds, has, kept] = [tokens, context, room].map((count) => Number(count).toLocaleString("en-US"))
  const answer = room > 0 ? `, of which ${kept} are reserved for the answer` : ""
  const window = `but the context window has ${has}${answer}`
  if (tokens > context - room && context > 0) return `too small: the session has ${holds} tokens, ${window}`
  if (tools && calls === false) return "cannot call tools, and the session has called some"
  const missing = Array.isArray(understood) ? inputs.filter((kind) => !understood.includes(kind)).sort() : []
  if (missing.length) return `does not support attachments of the kind ${missing.join(", ")}`
}

/** Return the needs of the session: tokens up to the last counted answer, the texts after it, and the prompt. */
async function needsOf(client, id, prompt) {
  const { data } = await client.session.messages({ path: { id }, query: { limit: FEW } })
  const messages = [...(Array.isArray(data) ? data : []).slice(-FEW), { parts: prompt }]
  const counted = messages.findLastIndex(({ info }) => filled(info) > 0)
  const all = messages.flatMap(({ parts }) => parts ?? [])
  const since = messages.slice(counted + 1).flatMap(({ parts }) => parts ?? [])
  const length = since.reduce((sum, { text }) => sum + (text?.length ?? 0), 0)
  return {
    tokens: (counted < 0 ? 0 : filled(messages[counted].info)) + Math.floor(length / CHARS_PER_TOKEN),
    inputs: [...new Set(all.map(medium).filter(Boolean))],
    tools: all.some(({ type }) => type === "tool"),
  }
}

/** Return the number of tokens in use after a message. After a summary, only the summary itself is in use. */
function filled(info) {
  const { input, output, reasoning, cache } = info?.tokens ?? {}
  const counts = info?.summary === true ? [output] : [input, output, reasoning, cache?.read, cache?.write]
  return counts.reduce((sum, count) => sum + (count > 0 ? count : 0), 0)
}

function medium({ type, mime }) {
  const [kind, subtype] = type === "file" && typeof mime === "string" ? mime.split("/") : []
  return subtype === "pdf" ? "pdf" : MEDIA.includes(kind) ? kind : undefined
}

const timeout = () => new Promise((done) => setTimeout(done, ANSWER_TIMEOUT).unref?.())

/** Resolve to the result of `work`; undefined if it fails or takes longer than ANSWER_TIMEOUT. */
const within = (work) => Promise.race([work, timeout()]).catch(() => {})
