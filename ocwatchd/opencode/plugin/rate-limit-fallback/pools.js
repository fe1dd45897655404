// ocwatchd companion plugin, version 1
//
// Pools: OpenCode knows none, so the first member speaks for all of them. The daemon publishes how full each member is;
// who gets the next session is chosen here, as ten sessions may begin before the daemon has looked once.

const STEEP = 8 // one session's worth of load against the draw between equals; as in core/pools.py
const GIVEN = 3600e3 // ms for which a session counts as its member's, unless the daemon has measured since
const REMEMBERED = 500 // sessions that have their member of a pool

export function part({ shared, pools, cooling, dear, ending, nameOf, isModel, partsOf, originOf }) {
  shared.fresh ??= new Set() // sessions that were made in this process and have had no prompt yet
  shared.placed ??= new Map() // session -> the model that it has in place of a pool's first member, or that member
  shared.given ??= [] // [model, time] of sessions that got their member here

  /** OpenCode knows no pools: the first member speaks for all of them. Only who names that one is spread. */
  function spread(message, session) {
    const asked = nameOf(message?.model)
    const fresh = shared.fresh.delete(session)
    const pool = pools().find(({ spread, members: [first] }) => spread && first.model === asked)
    if (!pool || pool.until <= Date.now() || !session) return
    const kept = keptMember(pool, session)
    if (!kept && !fresh) return // its answers so far are in that provider's cache
    const free = freeIn(pool)
    const cheap = free.filter((member) => member === kept || !dear(member.model))
    // A new session's person has named the pool: where nothing in it is without a price, that is what was named.
    const member = oneOf(fresh && !cheap.length ? free : cheap, pool, session)
    if (!member) return
    place(session, member.model)
    if (member.model === asked) return
    message.model = partsOf(member.model)
    if (member.agent && !shared.subordinate.has(message.agent)) message.agent = member.agent
  }

  /** This session's own member in place of a target that was taken from a pool; the target itself if none is free. */
  function memberFor(target, session) {
    const pool = target?.pool && pools().find(({ name }) => name === target.pool)
    if (!pool) return target
    const member = oneOf(freeIn(pool).filter(({ model }) => !dear(model)), pool, session)
    return member ? { model: member.model, agent: member.agent, pool: pool.name } : target
  }

  const freeIn = ({ members }) => members.filter(({ model }) => !cooling(model))

  /** Of these members the one that the session had last, else the one whose turn it is. */
  function oneOf(members, pool, session) {
    const kept = keptMember(pool, session)
    return members.includes(kept) ? kept : pool.spread ? inTurn(pool, members, session)[0] : members[0]
  }

  /** The member that this session had last. */
  function keptMember({ members }, session) {
    const had = [originOf(session).to?.model, shared.placed.get(session)]
    return had.map((name) => members.find(({ model }) => model === name)).find(Boolean)
  }

  function place(session, model) {
    if (!session || shared.placed.get(session) === model) return
    shared.placed.delete(session)
    shared.placed.set(session, model)
    if (shared.placed.size > REMEMBERED) shared.placed.delete(shared.placed.keys().next().value)
    shared.given = [...shared.given.filter(([, time]) => time > Date.now() - GIVEN), [model, Date.now()]]
  }

  /** The least full first, equals as the session's id draws them: the same as the daemon would choose. */
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

  /** Whether both are members of one pool. */
  const share = (one, other) =>
    pools().some((pool) => pool.until > Date.now() && isMember(pool, one) && isMember(pool, other))

  const membersIn = (listed) =>
    Array.isArray(listed) ? listed.filter((member) => isModel(member?.model)).map(checked) : []

  /** What the register says of pools; whatever is no pool is left out. */
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

  return { understand, created: (session) => shared.fresh.add(session), spread, memberFor, place, share }
}

const isMember = ({ members }, name) => members.some(({ model }) => model === name)

const checked = ({ model, agent, weight, load }) => ({
  model,
  agent: typeof agent === "string" ? agent : null,
  weight: weight > 0 ? weight : 1,
  load: load > 0 ? load : 0,
})

/** A number between 0 and 1 that is always the same for one text; as in core/pools.py. */
function draw(text) {
  let value = 0x811c9dc5
  for (const byte of new TextEncoder().encode(text)) value = Math.imul(value ^ byte, 0x01000193)
  value = Math.imul(value ^ (value >>> 16), 0x85ebca6b)
  value = Math.imul(value ^ (value >>> 13), 0xc2b2ae35)
  return (((value ^ (value >>> 16)) >>> 0) + 0.5) / 2 ** 32
}
