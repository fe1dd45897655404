// ocwatchd companion plugin, version 1
//
// Assigns sessions to the members of pools. OpenCode has no pools, so a pool's first member represents the pool. The
// daemon publishes the load of each member. The member for a new session is chosen here, because ten sessions may begin
// between two of the daemon's measurements.

const STEEP = 8 // weight of one session's load against the random draw, as in core/domain/pools.py
const GIVEN = 3600e3 // ms for which an assigned session counts as load, unless the daemon has measured the load since
const REMEMBERED = 500 // sessions whose member is remembered

export function part({ shared, pools, cooling, overBudget, ending, nameOf, isModel, partsOf, originOf }) {
  shared.fresh ??= new Set() // sessions that were created in this process and have had no prompt yet
  shared.placed ??= new Map() // session -> the member of a pool that was assigned to it
  shared.given ??= [] // [model, time] of each assignment

  /** If the message's model is a pool's first member, replace it with the member for this session. */
  function spread(message, session) {
    const asked = nameOf(message?.model)
    const fresh = shared.fresh.delete(session)
    const pool = pools().find(({ spread, members: [first] }) => spread && first.model === asked)
    if (!pool || pool.until <= Date.now() || !session) return
    const kept = keptMember(pool, session)
    if (!kept && !fresh) return // an older session keeps its model, whose provider has cached the answers
    const free = freeIn(pool)
    const cheap = free.filter((member) => member === kept || !overBudget(member.model))
    // The user has named the pool, so if all available members are over budget, a new session may use one of them.
    const member = memberOf(fresh && !cheap.length ? free : cheap, pool, session)
    if (!member) return
    place(session, member.model)
    if (member.model === asked) return
    message.model = partsOf(member.model)
    if (member.agent && !shared.subordinate.has(message.agent)) message.agent = member.agent
  }

  /** Return the members of the target's pool, this session's own member first; empty if the target has no pool. */
  function membersFor(target, session) {
    const pool = target?.pool && pools().find(({ name }) => name === target.pool)
    if (!pool) return []
    const kept = keptMember(pool, session)
    const others = pool.spread ? inTurn(pool, pool.members, session) : pool.members
    return [...new Set([kept, ...others].filter(Boolean))]
  }

  const freeIn = ({ members }) => members.filter(({ model }) => !cooling(model))

  /** Return the session's last member if it is among these members, otherwise the member whose turn it is. */
  function memberOf(members, pool, session) {
    const kept = keptMember(pool, session)
    return members.includes(kept) ? kept : pool.spread ? inTurn(pool, members, session)[0] : members[0]
  }

  /** Return the last member that was used for this session. */
  function keptMember({ members }, session) {
    const had = [originOf(session).to?.model, shared.placed.get(session)]
    return had.map((name) => members.find(({ model }) => model === name)).find(Boolean)
  }

  /** Record the assignment of a session to a member. */
  function place(session, model) {
    if (!session || shared.placed.get(session) === model) return
    shared.placed.delete(session)
    shared.placed.set(session, model)
    if (shared.placed.size > REMEMBERED) shared.placed.delete(shared.placed.keys().next().value)
    shared.given = [...shared.given.filter(([, time]) => time > Date.now() - GIVEN), [model, Date.now()]]
  }

  /** Sort members by load, and members of equal load by a draw from the session's id, as the daemon does. */
  function inTurn({ measured, until }, members, session) {
    const known = until > Date.now()
    const since = known ? Math.max(measured, Date.now() - GIVEN) : Date.now() - GIVEN
    const score = ({ model, weight, load }) => {
      const given = shared.given.filter(([name, time]) => name === model && time > since).length
      return (STEEP * ((known ? load : 0) + given) - Math.log(draw(`${session} ${model}`))) / weight
    }
    const scores = new Map(members.map((member) => [member, score(member)]))
    return members.toSorted((one, other) => scores.get(one) - scores.get(other))
  }

  /** Return whether both models are members of one pool. */
  const share = (one, other) =>
    pools().some((pool) => pool.until > Date.now() && isMember(pool, one) && isMember(pool, other))

  const membersIn = (listed) =>
    Array.isArray(listed) ? listed.filter((member) => isModel(member?.model)).map(checked) : []

  /** Return the valid pools in the blacklist. */
  const understand = (listed) =>
    Object.entries(listed ?? {})
      .map(([name, pool]) => ({
        name,
        spread: pool?.spread === true,
        measured: Date.parse(pool?.measured) || 0,
        until: ending(pool?.until ?? ""),
        members: membersIn(pool?.members),
      }))
      .filter(({ members }) => members.length)

  return { understand, created: (session) => shared.fresh.add(session), spread, membersFor, place, share }
}

const isMember = ({ members }, name) => members.some(({ model }) => model === name)

const checked = ({ model, agent, weight, load }) => ({
  model,
  agent: typeof agent === "string" ? agent : null,
  weight: weight > 0 ? weight : 1,
  load: load > 0 ? load : 0,
})

/** Return a number between 0 and 1 that depends only on the text, as in core/domain/pools.py. */
function draw(text) {
  let value = 0x811c9dc5
  for (const byte of new TextEncoder().encode(text)) value = Math.imul(value ^ byte, 0x01000193)
  value = Math.imul(value ^ (value >>> 16), 0x85ebca6b)
  value = Math.imul(value ^ (value >>> 13), 0xc2b2ae35)
  return (((value ^ (value >>> 16)) >>> 0) + 0.5) / 2 ** 32
}
