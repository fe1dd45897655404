// ocwatchd companion plugin, version 1
//
// Chooses the fallback for a prompt whose model must not be used now, from the blacklist. core/fallback/selection.py
// makes the same choice; both run tests/conformance/fallback.json. The candidates, in this order, each once:
//
// 1. the chain that the daemon has published for the session's agent; an empty chain means no fallback at all;
// 2. the target in the blacklist entry for the model, first from the entry that ends last; a target that is cooling
//    down is followed to its own target, never in a circle;
// 3. the fallbacks that the daemon has published for the model, or for an entry that covers it;
// 4. the fallbacks of the models in the agent's chain that are cooling down.
//
// The first candidate that is not cooling down, can take the session and is within the budget is chosen. If there is
// none, a model whose limit is only forecast is chosen: the prompt's own model, or else the first such candidate.

export function part({ blocking, limited, overBudget, isModel, listed, membersFor }) {
  /**
   * Return {target, refused}. Without `target`, the model stays. `refused`: available but unfit models, with reasons.
   */
  function select(asked, session, unfit = () => undefined, agent) {
    if (!blocking(asked).length) return { refused: [] }
    const blocked = (model) => blocking(model).length > 0
    const usable = (model, out) => !out(model) && !unfit(model) && !overBudget(model)
    const passed = []
    const refused = () =>
      passed
        .map(({ model }) => ({ model, why: !blocked(model) && unfit(model) }))
        .filter(({ why }) => why)
    for (const candidate of candidates(asked, session, agent)) {
      if (usable(candidate.model, blocked)) return { target: candidate, refused: refused() }
      passed.push(candidate)
    }
    if (!limited(asked) && !unfit(asked)) return { refused: [] }
    return { target: passed.find(({ model }) => usable(model, limited)), refused: refused() }
  }

  /** Return the candidates for a model, in order, as described above. */
  function candidates(asked, session, by) {
    const own = chainOf(by, asked)
    if (own && !own.length) return []
    const mine = (own ?? []).flatMap((one) => [...membersFor(one, session).map((member) => ({ ...member, pool: one.pool })), one])
    const onwards = mine.filter(({ model }) => blocking(model).length).flatMap(({ model }) => fallbacksOf(model))
    const published = [...fallbacksOf(asked), ...onwards]
    const agents = new Map([...mine, ...published].map(({ model, agent }) => [model, agent]))
    const found = new Map()
    for (const { model, agent, pool } of [...mine, ...trail(asked, session), ...published]) {
      if (model !== asked && !found.has(model)) found.set(model, { model, agent: agent ?? agents.get(model), pool })
    }
    return [...found.values()]
  }

  /**
   * Return the agent's most specific chain for this model; undefined if there is none or it contains only this model.
   */
  function chainOf(agent, asked) {
    const chains = agent ? listed()?.agent_chains : undefined
    const own = chains && Object.hasOwn(chains, agent) ? chains[agent] : undefined
    const key = [asked, `${asked.slice(0, asked.indexOf("/"))}/*`, "*"].find((name) => Array.isArray(own?.[name]))
    if (!key) return
    const others = own[key].filter((row) => isModel(row?.model) && row.model !== asked)
    return others.length || !own[key].length ? others : undefined
  }

  /** Return the targets of the entries for this model; targets that are cooling down are followed to theirs. */
  function trail(asked, session) {
    const seen = new Set([asked])
    const waiting = [asked]
    const found = []
    for (const current of waiting) {
      for (const entry of blocking(current)) {
        const target = entry.targets?.[current] ?? entry.target
        if (!isModel(target?.model)) continue
        for (const member of [...membersFor(target, session), target]) {
          if (seen.has(member.model)) continue
          seen.add(member.model)
          waiting.push(member.model)
          found.push({ ...member, pool: target.pool })
        }
      }
    }
    return found
  }

  /** Return the published fallbacks of a model, or of an entry that covers it. */
  function fallbacksOf(asked) {
    const named = listed()?.fallbacks ?? {}
    const key = [asked, ...blocking(asked).map(({ key }) => key)].find((name) => Array.isArray(named[name]))
    return (key ? named[key] : []).filter((row) => isModel(row?.model))
  }

  return { select }
}
