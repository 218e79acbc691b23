-- A page of a session's events, and the session, where the entry can answer exactly.
-- ARGV  1 generation  2 asc or desc  3 limit  4 score and  5 beginning of the member that the page goes on from, or ''
--       6 seq that the answer must not be older than, or ''  7 token and  8 ms of the reader that wants to fill
--       9 1 if the session is wanted
-- Gives {'hit', has_more, version, session, last score, member...}, or
--   {'pending'}  a write is under way: ask the database, and do not fill
--   {'miss', 1}  ask the database, then fill with the token; {'miss', 0}  another reader fills already
--   {'beyond'}   the page reaches further back than the entry
--   {'behind'}   the entry has nothing as new as was asked for

local now = now_us()
bury(now)
if redis.call('ZCARD', PENDING) > 0 then
  return { 'pending' }
end

local state = redis.call('HMGET', STATE, 'g', 'x', 'n', 'c', 'l', 'v', 's')
local n = redis.call('ZCARD', EVENTS)
if state[1] ~= ARGV[1] or tonumber(state[2]) <= now or tonumber(state[3]) ~= n then
  redis.call('DEL', STATE, EVENTS)
  local mine = redis.call('SET', FILL, ARGV[7], 'NX', 'PX', ARGV[8])
  return { 'miss', mine and 1 or 0 }
end
if ARGV[6] ~= '' and tonumber(ARGV[6]) > tonumber(state[5]) then
  return { 'behind' }
end

local descending, limit, complete = ARGV[2] == 'desc', tonumber(ARGV[3]), state[4] == '1'
-- The rank that the page begins at, counted from the page's own end of the set.
local first = 0
if ARGV[4] ~= '' then
  -- By equality alone: Lua compares strings as the locale has it, Redis as bytes.
  local rank = redis.call('ZCOUNT', EVENTS, '-inf', '(' .. ARGV[4])
  local found = false
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', EVENTS, ARGV[4], ARGV[4])) do
    if member:sub(1, #ARGV[5]) == ARGV[5] then
      found = true
      break
    end
    rank = rank + 1
  end
  if not found then
    return { 'beyond' }
  end
  first = (descending and n - 1 - rank or rank) + 1
elseif not descending and not complete then
  return { 'beyond' }
end

local there = n - first
if descending and not complete and there < limit then
  return { 'beyond' }
end
local has_more = there > limit or (descending and not complete)
local answer = { 'hit', has_more and 1 or 0, state[6], ARGV[9] == '1' and state[7] or '', '' }
if limit > there then
  limit = there
end
if limit > 0 then
  local command = descending and 'ZREVRANGE' or 'ZRANGE'
  for at, member in ipairs(redis.call(command, EVENTS, first, first + limit - 1)) do
    answer[5 + at] = member
  end
  answer[5] = redis.call('ZSCORE', EVENTS, answer[5 + limit])
end
return answer
