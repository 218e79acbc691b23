-- Makes an entry of what a reader found in the database, unless a write began since it was let: such a write took the
-- fill token with it, and whoever came late has something old.
-- ARGV  1 token  2 generation  3 ms of its life  4 JSON  5 version  6 initiated  7 complete  8 greatest seq
--       then for each event: score, member
-- Gives 1 if the entry was made.

local now = now_us()
bury(now)
if redis.call('GET', FILL) ~= ARGV[1] or redis.call('ZCARD', PENDING) > 0 then
  return 0
end
drop()
local events, bytes = {}, 0
for at = 9, #ARGV do
  events[at - 8] = ARGV[at]
  if at % 2 == 0 then
    bytes = bytes + #ARGV[at]
  end
end
if #events > 0 then
  redis.call('ZADD', EVENTS, unpack(events))
  redis.call('PEXPIRE', EVENTS, ARGV[3])
end
redis.call('HSET', STATE, 'g', ARGV[2], 'x', int(now + ARGV[3] * 1000), 's', ARGV[4], 'v', ARGV[5], 'i', ARGV[6],
  'c', ARGV[7], 'n', #events / 2, 'b', bytes, 'l', ARGV[8], 't', ARGV[1], 'r', 0)
redis.call('PEXPIRE', STATE, ARGV[3])
return 1
