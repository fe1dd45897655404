// ocwatchd companion plugin, version 1
//
// The floor under prevention: a stand-in whose window the session would overflow, or that does not understand what is in
// it, is passed over, as the daemon does with moves (core/capability.py, opencode/look.py). What models take stands in
// the register; what the session holds is asked of OpenCode. Whatever is not known forbids nothing.

import { join } from "node:path"

const ROOM = 8 // an eighth of the window is kept for the answer, where the longest answer would take more
const CHARS_PER_TOKEN = 4 // of text that nobody has counted yet
const FACTS_CAP = 1 << 20 // bytes, as in answers.js
const FEW = 4 // last messages that are looked at, as the daemon does
const PATIENCE = 1000 // ms for OpenCode's answer; a prompt must not wait for it
const MEDIA = ["image", "audio", "video"]

export function part({ state, listed, isModel, cooling, dear, privateDirectory, append }) {
  const facts = join(state, "facts")

  /** The stand-in that is to be used in place of `first`: itself, another one, or none that could take the session. */
  async function choose(asked, entry, first, session, parts, client) {
    const takes = listed()?.takes ?? {}
    if (!takes[first.model]) return first
    const needs = await within(needsOf(client, session, parts))
    const passed = []
    for (const target of [first, ...standInsOf(asked, entry)]) {
      const out = cooling(target.model) || dear(target.model) || passed.some(({ model }) => model === target.model)
      if (target !== first && out) continue
      const why = needs && unfit(needs, takes[target.model])
      if (!why) {
        if (passed.length) tell(asked, target, session, passed)
        return target
      }
      passed.push({ model: target.model, why })
    }
    tell(asked, null, session, passed)
  }

  function standInsOf(asked, { key }) {
    const named = listed()?.standIns ?? {}
    return [named[asked] ?? named[key]].flat().filter((target) => isModel(target?.model) && target.model !== asked)
  }

  /** For `ocwatch explain`. */
  function tell(model, target, session, passed) {
    const fact = { version: 1, time: new Date().toISOString(), pid: process.pid, session, prevented: model }
    privateDirectory(facts)
    append(join(facts, `${process.pid}.jsonl`), JSON.stringify({ ...fact, target: target?.model ?? null, passed }), FACTS_CAP)
  }

  return { choose }
}

/** Why the model cannot take it; undefined if it can, or nobody knows. */
function unfit({ tokens, inputs, tools }, capacity) {
  const { context, output, inputs: understood, tools: calls } = capacity ?? {}
  const room = Math.min(output || 0, Math.floor(context / ROOM))
  const [holds, has, kept] = [tokens, context, room].map((count) => Number(count).toLocaleString("en-US"))
  const answer = room > 0 ? `, ${kept} for the answer` : ""
  if (tokens > context - room && context > 0) return `too small: the session holds ${holds} tokens, its window has ${has}${answer}`
  if (tools && calls === false) return "cannot call tools, and the session has called some"
  const missing = Array.isArray(understood) ? inputs.filter((kind) => !understood.includes(kind)).sort() : []
  if (missing.length) return `does not understand attachments of the kind ${missing.join(", ")}`
}

/** What a model has to take that goes on: what the last counted answer filled, the texts after it, and the prompt. */
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

/** After a summary only the summary itself goes on. */
function filled(info) {
  const { input, output, reasoning, cache } = info?.tokens ?? {}
  const counts = info?.summary === true ? [output] : [input, output, reasoning, cache?.read, cache?.write]
  return counts.reduce((sum, count) => sum + (count > 0 ? count : 0), 0)
}

function medium({ type, mime }) {
  const [kind, subtype] = type === "file" && typeof mime === "string" ? mime.split("/") : []
  return subtype === "pdf" ? "pdf" : MEDIA.includes(kind) ? kind : undefined
}

const within = (work) => Promise.race([work, new Promise((done) => setTimeout(done, PATIENCE).unref?.())]).catch(() => {})
