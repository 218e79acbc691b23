-- Stands after every script of a session, and runs it for all that were sent together.
-- KEYS  five of each session   ARGV  for each session, how many arguments it has, and then these
-- Gives what each gave, in their order; a simple string, which none gives, where one failed. The others do not mind.

local answers, at = {}, 1
now = now_us()
while at <= #ARGV do
  local first, count = #answers * 5, tonumber(ARGV[at])
  STATE, EVENTS, PENDING = KEYS[first + 1], KEYS[first + 2], KEYS[first + 3]
  FILL, NUMBERS = KEYS[first + 4], KEYS[first + 5]
  local went_well, answer = pcall(session, unpack(ARGV, at + 1, at + count))
  if not went_well then
    answer = { ok = type(answer) == 'table' and answer.err or tostring(answer) }
  end
  answers[#answers + 1] = answer
  at = at + 1 + count
end
return answers
