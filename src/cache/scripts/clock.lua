-- Stands before every script. Redis's clock, in microseconds since 1970: the only one the protocol goes by.

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end
