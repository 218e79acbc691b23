-- A page of a session's events, and the session, where the entry can answer exactly.
-- order: asc or desc; score, beginning: of the member that the page goes on from, or ''; min_seq: that an event of the
-- page must have, in 20 digits, or ''; token, fill_ms: of the reader that wants to fill; whole: 1 if the session is wanted;
-- copy: tag of the entry that the reader has this page from, or ''
-- A reader without a token does not fill.
-- Gives 'same'  the entry has that tag: nothing has changed since, and the page is the one that the reader has, or
--   {'hit', tag, version, session, events, score, beginning}  the events' JSON with commas between, and where there are
--                more, the score and the beginning of the last one's member, else '', or
--   'pending'    a write is under way: ask the database, and do not fill
--   {'miss', 1}  ask the database, then fill with the token; {'miss', 0}  another reader fills already, or no token
--   'beyond'     the page reaches further back than the entry
--   'behind'     no event of the page has that seq: the entry may be older than it, whatever else it holds

local function session(generation, order, limit, score, beginning, min_seq, token, fill_ms, whole, copy)
  -- There is no such key when nothing is pending, nor anyone to bury.
  if redis.call('EXISTS', PENDING) == 1 then
    bury()
    if redis.call('ZCARD', PENDING) > 0 then
      return 'pending'
    end
  end

  local state = redis.call('HMGET', STATE, 'g', 'x', 'n', 't', 'r')
  local n = redis.call('ZCARD', EVENTS)
  if state[1] ~= generation or tonumber(state[2]) <= now or tonumber(state[3]) ~= n then
    redis.call('DEL', STATE, EVENTS)
    local mine = token ~= '' and redis.call('SET', FILL, token, 'NX', 'PX', fill_ms)
    return { 'miss', mine and 1 or 0 }
  end
  -- This very moment is what makes a copy good: the entry is believed, and is what the copy was made from.
  local tag = state[4] .. ' ' .. state[5]
  if min_seq == '' and copy == tag then
    return 'same'
  end

  local shown = redis.call('HMGET', STATE, 'c', 'v', whole == '1' and 's' or '')
  local descending, complete = order == 'desc', shown[1] == '1'
  limit = tonumber(limit)
  -- The rank that the page begins at, counted from the page's own end of the set.
  local first = 0
  if score ~= '' then
    -- By equality alone: Lua compares strings as the locale has it, Redis as bytes.
    local rank = redis.call('ZCOUNT', EVENTS, '-inf', '(' .. score)
    local found = false
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', EVENTS, score, score)) do
      if member:sub(1, #beginning) == beginning then
        found = true
        break
      end
      rank = rank + 1
    end
    if not found then
      return 'beyond'
    end
    first = (descending and n - 1 - rank or rank) + 1
  elseif not descending and not complete then
    return 'beyond'
  end

  local there = n - first
  if descending and not complete and there < limit then
    return 'beyond'
  end
  local has_more = there > limit or (descending and not complete)
  if limit > there then
    limit = there
  end
  local score, beginning = '', ''
  local events, is_behind = {}, min_seq ~= ''
  if limit > 0 then
    local command = descending and 'ZREVRANGE' or 'ZRANGE'
    events = redis.call(command, EVENTS, first, first + limit - 1)
    if has_more then
      local last = events[limit]
      score = redis.call('ZSCORE', EVENTS, last)
      beginning = last:sub(1, last:find(' ', 22, true))
    end
    for at = 1, limit do
      local member = events[at]
      -- A sequence number has 20 digits, and a space behind it.
      is_behind = is_behind and member:sub(1, 20) ~= min_seq
      events[at] = member:sub(member:find(' ', 22, true) + 1)
    end
  end
  if is_behind then
    return 'behind'
  end
  return { 'hit', tag, shown[2], shown[3] or '', table.concat(events, ','), score, beginning }
end
