-- Stands before every script in the model of the cache: Redis, but its time, its process and its expiries are the
-- model's. The last of KEYS is "NOW RUN": microseconds since 1970, and the id of the process.

local NOW, RUN = KEYS[#KEYS]:match('^(%d+) (%x+)$')

local function now_us()
  return tonumber(NOW)
end

local redis = (function(real)
  local DEADLINES = 'model:deadlines'
  local function gone(key)
    real.call('ZREM', DEADLINES, key)
    return real.call('DEL', key)
  end
  local function lives(key, ms)
    real.call('ZADD', DEADLINES, string.format('%.0f', now_us() + ms * 1000), key)
  end
  for _, key in ipairs(real.call('ZRANGEBYSCORE', DEADLINES, '-inf', NOW)) do
    gone(key)
  end

  local virtual = {}
  function virtual.INFO()
    return 'run_id:' .. RUN
  end
  function virtual.DEL(...)
    local deleted = 0
    for _, key in ipairs({ ... }) do
      deleted = deleted + gone(key)
    end
    return deleted
  end
  function virtual.PEXPIRE(key, ms)
    if real.call('EXISTS', key) == 0 then
      return 0
    end
    if tonumber(ms) <= 0 then
      return gone(key)
    end
    lives(key, ms)
    return 1
  end
  function virtual.SET(key, value, ...)
    local options = { ... }
    assert(options[#options - 1] == 'PX' and #options <= 3)
    local set = options[1] == 'NX' and real.call('SET', key, value, 'NX') or options[1] == 'PX' and real.call('SET', key, value)
    if set then
      lives(key, options[#options])
    end
    return set
  end
  return {
    call = function(command, ...)
      return (virtual[command] or function(...) return real.call(command, ...) end)(...)
    end,
  }
end)(redis)
