-- Announces a write. From here until its `finish`, readers ask the database, and nobody fills.
-- ARGV  1 token  2 us until the writer counts as dead  3 numbers wanted  4 ms that keys live
-- Gives {first seq, 1 if there is an entry to keep up}.

local now = now_us()
bury(now)
redis.call('DEL', FILL)
redis.call('ZADD', PENDING, int(now + ARGV[2]), ARGV[1])
redis.call('PEXPIRE', PENDING, ARGV[4])

local first = now
local last = redis.call('GET', SEQ)
if last and tonumber(last) >= first then
  first = tonumber(last) + 1
end
redis.call('SET', SEQ, int(first + ARGV[3] - 1), 'PX', ARGV[4])
return { int(first), redis.call('EXISTS', STATE) }
