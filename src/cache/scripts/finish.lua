-- Ends a write that the database has decided: the entry takes what changed, and the token goes, in one step.
-- ARGV  1 token  2 what changed, and with it
--       nothing
--       drop     what is here may not be true any more
--       session  3 JSON  4 version  5 initiated
--       events   3 events kept  4 bytes kept  5 greatest seq  then for each event: score, member, and, if it may be
--                here already, what its member begins with, else ''
-- A writer whose token is gone was taken for dead, or Redis forgot it: readers may have filled in the time before its
-- write, so nothing stays.

local now = now_us()
bury(now)
if redis.call('ZREM', PENDING, ARGV[1]) == 0 or ARGV[2] == 'drop' then
  drop()
  return 'dropped'
end
if ARGV[2] == 'nothing' or redis.call('EXISTS', STATE) == 0 then
  return 'unchanged'
end

-- Copies of the entry are none any more. First, so that it holds even for a change that is cut short.
local function revise()
  redis.call('HINCRBY', STATE, 'r', 1)
end

if ARGV[2] == 'session' then
  if tonumber(ARGV[4]) > tonumber(redis.call('HGET', STATE, 'v')) then
    revise()
    redis.call('HSET', STATE, 's', ARGV[3], 'v', ARGV[4], 'i', ARGV[5])
  end
  return 'changed'
end

local state = redis.call('HMGET', STATE, 'i', 'n', 'b', 'c', 'l', 'x')
local n, bytes, complete = tonumber(state[2]), tonumber(state[3]), state[4]
if state[1] == '1' or redis.call('ZCARD', EVENTS) ~= n then
  -- Its first event makes a session active, in a way that only the database shows.
  drop()
  return 'dropped'
end

local function is_here(score, beginning)
  if beginning ~= '' then
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', EVENTS, score, score)) do
      if member:sub(1, #beginning) == beginning then
        return true
      end
    end
  end
  return false
end

revise()
for at = 6, #ARGV, 3 do
  local score, member = ARGV[at], ARGV[at + 1]
  if not is_here(score, ARGV[at + 2]) then
    redis.call('ZADD', EVENTS, score, member)
    if complete == '0' and redis.call('ZRANK', EVENTS, member) == 0 then
      -- Older than all that are here: others that are not may lie between.
      redis.call('ZREM', EVENTS, member)
    else
      n, bytes = n + 1, bytes + #member
    end
  end
end
while n > tonumber(ARGV[3]) or bytes > tonumber(ARGV[4]) do
  local oldest = redis.call('ZPOPMIN', EVENTS)
  n, bytes, complete = n - 1, bytes - #oldest[1], '0'
end
redis.call('PEXPIRE', EVENTS, int(math.max(0, tonumber(state[6]) - now) / 1000))
local last = tonumber(state[5]) > tonumber(ARGV[5]) and state[5] or ARGV[5]
redis.call('HSET', STATE, 'n', n, 'b', int(bytes), 'c', complete, 'l', last)
return 'changed'
