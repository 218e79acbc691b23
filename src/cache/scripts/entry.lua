-- Stands before every script of a session. What a session's keys are, in the order of KEYS; they share a hash slot:
--   state    hash: g generation, x end of its life (us), s the session's JSON, v its version, i 1 while it is initiated,
--            c 1 when all its events are here, n how many are, b their bytes, l the greatest seq, t the token of the fill
--            that made it, r its revision: t and r are never the same again once anything else here has changed
--   events   sorted set: score = timestamp (ms), member = "SEQ EVENTID JSON", SEQ being 20 digits that sort as seq does
--   pending  sorted set: score = when the writer counts as dead (us), member = the token of a write under way
--   fill     the token of the reader that may fill
--   seq      the greatest seq handed out
-- state and events are one entry. Redis may evict any key at any moment, and then:
--   state: there is no entry; events: it has not the n members it should; pending: the writer misses its token, and
--   drops the entry before it is acknowledged; fill: the fill is refused; seq: the clock alone gives the next.

-- Of the session at hand, and the time (us): `together.lua` says which.
local STATE, EVENTS, PENDING, FILL, SEQ, now

-- A number as an integer: Lua's own way is 1.7e+15.
local function int(number)
  return string.format('%.0f', number)
end

-- No entry, and nobody may fill in what they looked up before now.
local function drop()
  redis.call('DEL', STATE, EVENTS, FILL)
end

-- Writers whose time is over died between the database and here: what they did is not known.
local function bury()
  if redis.call('ZREMRANGEBYSCORE', PENDING, '-inf', int(now)) > 0 then
    drop()
  end
end
