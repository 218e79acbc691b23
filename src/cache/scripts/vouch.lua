-- A replica vouches, for a moment, that every write it has acknowledged is marked here; see the module `vouching`.
-- KEYS  1 hash: run the process of Redis it was made in, g generation, open when its entries may be used (us), last the
--       time of the latest call (us), and for each replica, "r:" and its name, until when it vouches (us)
-- ARGV  1 replica  2 join, vouch, reset or leave  3 until when (us), as of the process  4 which it has known
--       5 us after which an absent replica is given up  6 us that a new registry waits for the replicas
-- Gives {now, generation, open, until when all others vouch or '', process}, of which the times are in us.

local registry, name, action = KEYS[1], 'r:' .. ARGV[1], ARGV[2]
local function int(number)
  return string.format('%.0f', number)
end

local now, run = now_us(), ARGV[4]
if action == 'join' then
  run = redis.call('INFO', 'server'):match('run_id:(%x+)')
end

local known = redis.call('HMGET', registry, 'run', 'last')
if known[1] ~= run or tonumber(known[2]) > now then
  -- Another process, an older copy of the data, a clock set back, or all was flushed: nothing that was here counts, and
  -- every replica has time to say what it could not mark.
  redis.call('DEL', registry)
  redis.call('HSET', registry, 'run', run, 'g', int(now), 'open', int(now + ARGV[6]))
end
redis.call('HSET', registry, 'last', int(now))

local others, given_up = nil, action == 'reset'
local fields = redis.call('HGETALL', registry)
for at = 1, #fields, 2 do
  local field, value = fields[at], tonumber(fields[at + 1])
  if field:sub(1, 2) == 'r:' and field ~= name then
    if value + ARGV[5] < now then
      -- It died, and what it could not mark is not known.
      redis.call('HDEL', registry, field)
      given_up = true
    elseif not others or value < others then
      others = value
    end
  end
end
if given_up then
  local last = tonumber(redis.call('HGET', registry, 'g'))
  redis.call('HSET', registry, 'g', int(math.max(now, last + 1)))
end

if action == 'leave' then
  redis.call('HDEL', registry, name)
else
  -- One that only joins vouches for nothing yet. Its absence counts from now.
  redis.call('HSET', registry, name, action == 'join' and int(now) or ARGV[3])
end
local state = redis.call('HMGET', registry, 'g', 'open')
return { int(now), state[1], state[2], others and int(others) or '', run }
