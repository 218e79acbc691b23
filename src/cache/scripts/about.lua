-- Says what runs here, for `colloquy check`.

local info = redis.call('INFO', 'server')
return 'Redis ' .. info:match('redis_version:([^\r\n]*)') .. ', ' .. info:match('redis_mode:([^\r\n]*)')
