-- Merge records on the server in one call, as core/sharing/merge.py does; tests compare the results byte by byte. The
-- tables and limits below are filled in from Python.
--
-- KEYS[1]: the hash of records (account TAB model -> line). ARGV[1]: "offer" or "drop", ARGV[2]: the channel, then lines.
-- offer: merge each line into the hash, publish changed lines, and return the stored line of each record. Lines from
-- the future are skipped, because a wrong clock must not spoil the stored records.
-- drop: remove each record whose stored line is exactly this line.
local KINDS, SCOPES, SOURCES = @KINDS@, @SCOPES@, @SOURCES@
local VERSION, MAX_BYTES, FIXED_BYTES, LARGEST, MAX_INCIDENTS = "1", @MAX_BYTES@, @FIXED_BYTES@, @LARGEST@, @MAX_INCIDENTS@

local MAX_SKEW, MAX_AHEAD = @MAX_SKEW@, @MAX_AHEAD@

-- Before version 7, a script that has read the time must call this before it writes.
if redis.replicate_commands then redis.replicate_commands() end
local clock = redis.call("TIME")
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local function split(text, mark)
  local parts, from = {}, 1
  while true do
    local at = string.find(text, mark, from, true)
    parts[#parts + 1] = string.sub(text, from, at and at - 1)
    if not at then return parts end
    from = at + #mark
  end
end

-- Return a number without leading zeros and with at most `digits` digits. A double represents 13 digits exactly.
local function number(text, digits)
  if text == "0" then return 0 end
  if #text > digits or not string.match(text, "^[1-9]%d*$") then return nil end
  return tonumber(text)
end

-- Compare by bytes, because `<` compares strings by the server's locale.
local function above(one, other)
  for i = 1, math.max(#one, #other) do
    local a, b = string.byte(one, i) or -1, string.byte(other, i) or -1
    if a ~= b then return a > b end
  end
  return false
end

local function newer(one, other)
  if one.counter ~= other.counter then return one.counter > other.counter end
  return above(one.node, other.node)
end

local function parse(line)
  if #line > MAX_BYTES then return nil end
  local f = split(line, "\t")
  if #f ~= 10 or f[1] ~= VERSION then return nil end
  local record = {
    account = f[2], model = f[3], epoch = number(f[4], 9), since = number(f[10], 13), incidents = {},
    until_ = f[5] == "-" and math.huge or number(f[5], 13), kind = KINDS[f[7]], scope = SCOPES[f[8]], source = SOURCES[f[9]],
    words = { f[7], f[8], f[9] },
  }
  if not (record.epoch and record.since and record.until_ and record.kind and record.scope and record.source) then
    return nil
  end
  if record.account == "" or record.model == "" then return nil end
  if record.since > now + MAX_SKEW then return nil end
  if record.until_ ~= math.huge and record.until_ > now + MAX_AHEAD then return nil end
  for _, part in ipairs(f[6] == "-" and {} or split(f[6], ",")) do
    local node, counter = string.match(part, "^([a-z0-9][a-z0-9-]*)%.(%d+)$")
    counter = counter and number(counter, 9)
    if not counter or counter == 0 or #node > 12 then return nil end
    record.incidents[#record.incidents + 1] = { node = node, counter = counter, text = part }
  end
  return record
end

local function united(one, other)
  local all, known = {}, {}
  for _, record in ipairs({ one, other }) do
    for _, incident in ipairs(record.incidents) do
      if not known[incident.text] then
        known[incident.text] = true
        all[#all + 1] = incident
      end
    end
  end
  table.sort(all, newer)
  local room, kept = MAX_BYTES - FIXED_BYTES - #one.account - #one.model, {}
  for i = 1, math.min(#all, MAX_INCIDENTS) do
    room = room - #all[i].text - (#kept > 0 and 1 or 0)
    if room < 0 then break end
    kept[#kept + 1] = all[i]
  end
  return kept
end

local function heavier(one, other)
  for _, name in ipairs({ "until_", "kind", "scope", "source" }) do
    if one[name] ~= other[name] then return one[name] > other[name] end
  end
  return true
end

local function merged(one, other)
  if one.epoch ~= other.epoch then return one.epoch > other.epoch and one or other end
  local holds = heavier(one, other) and one or other
  return {
    account = one.account, model = one.model, epoch = one.epoch, until_ = holds.until_, words = holds.words,
    incidents = united(one, other), since = math.max(one.since, other.since),
  }
end

local function line_of(record)
  local texts = {}
  for i, incident in ipairs(record.incidents) do texts[i] = incident.text end
  return table.concat({
    VERSION, record.account, record.model, string.format("%.0f", record.epoch),
    record.until_ == math.huge and "-" or string.format("%.0f", record.until_),
    #texts > 0 and table.concat(texts, ",") or "-", record.words[1], record.words[2], record.words[3],
    string.format("%.0f", record.since),
  }, "\t")
end

local hash, how, channel, answers = KEYS[1], ARGV[1], ARGV[2], {}
for i = 3, #ARGV do
  local offered = parse(ARGV[i])
  if offered then
    local field = offered.account .. "\t" .. offered.model
    local stored = redis.call("HGET", hash, field)
    if how == "drop" then
      if stored == ARGV[i] then redis.call("HDEL", hash, field) end
    else
      local known = stored and parse(stored)
      local line = ARGV[i]
      if known and known.account == offered.account and known.model == offered.model then
        line = line_of(merged(known, offered))
      end
      if line ~= stored then
        redis.call("HSET", hash, field, line)
        redis.call("PUBLISH", channel, line)
      end
      answers[#answers + 1] = line
    end
  end
end
return answers
