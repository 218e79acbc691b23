-- Stands before every script of a session. What a session's keys are, in the order of KEYS; they share a hash slot:
--   state    hash: g generation, x end of its life (us), s the session's JSON, v its version, i 1 while it is initiated,
--            c 1 when all its events are here, n how many are, b their bytes, t the token of the fill that made it, r its
--            revision: t and r are never the same again once anything else here has changed
--   events   sorted set: score = timestamp (ms), member = "SEQ EVENTID JSON", SEQ being 20 digits that sort as seq does
--   pending  sorted set: score = when the writer counts as dead (us), member = the token of a write under way
--   fill     the token of the reader that may fill
--   numbers  the greatest seq reserved, a space, and the process of Redis in which that was so; see the module `numbers`
-- state and events are one entry. Redis may evict any key at any moment, and then:
--   state: there is no entry; events: it has not the n members it should; pending: the writer misses its token, and
--   drops the entry before it is acknowledged; fill: the fill is refused; numbers: the store is asked for the greatest.

-- Of the session at hand, and the time (us): `together.lua` says which.
local STATE, EVENTS, PENDING, FILL, NUMBERS, now

-- A number as an integer: Lua's own way is 1.7e+15.
local function int(number)
  return string.format('%.0f', number)
end

-- No entry, and nobody may fill in what they looked up before now.
local function drop()
  redis.call('DEL', STATE, EVENTS, FILL)
end

-- The greatest seq reserved, and whether it is known that the store has none above it; nothing where there is no such key.
local function last_reserved(process)
  local last, of = (redis.call('GET', NUMBERS) or ''):match('^(-?%d+) (.*)$')
  return tonumber(last or ''), of == process
end

-- Reserves so many numbers from `first` on.
local function reserve(first, wanted, keys_ms, process)
  redis.call('SET', NUMBERS, int(first + wanted - 1) .. ' ' .. process, 'PX', keys_ms)
  return int(first)
end

-- The time to number by: Redis's, unless it is further from the replica's own than it may be.
local function clock_to_number_by(own_us, skew_us)
  return math.abs(now - own_us) <= tonumber(skew_us) and now or tonumber(own_us)
end

-- Writers whose time is over died between the database and here: what they did is not known.
local function bury()
  if redis.call('ZREMRANGEBYSCORE', PENDING, '-inf', int(now)) > 0 then
    drop()
  end
end
