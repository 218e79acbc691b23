// Makes docker-compose.yml's MongoDB servers one sharded cluster: initiates the three replica sets, waits for their
// primaries, and adds the shards through mongos. What is done already is left as it is, so it runs at every start.
//
//   mongosh --nodb --quiet --norc init.js
//
// Each set has one member here. For data that matters each has three, on machines of their own.

const waitSecondsMax = 120;
const sets = [
  { _id: "config", configsvr: true, members: [{ _id: 0, host: "mongodb-config:27019" }] },
  { _id: "shard-1", members: [{ _id: 0, host: "mongodb-shard-1:27018" }] },
  { _id: "shard-2", members: [{ _id: 0, host: "mongodb-shard-2:27018" }] },
];
const router = "mongodb://mongos:27017/admin";

// Tries until the step succeeds, and says why the last try did not.
function retry(what, step) {
  const end = Date.now() + waitSecondsMax * 1000;
  for (;;) {
    try {
      step(); // Not `return step()`: what it throws would pass this by, for mongosh turns it into a promise.
      return;
    } catch (error) {
      if (Date.now() > end) {
        throw new Error(`${what}: not within ${waitSecondsMax} s: ${error.message}`);
      }
      sleep(500);
    }
  }
}

for (const set of sets) {
  const host = set.members[0].host;
  retry(`initiate ${set._id}`, () => {
    const admin = connect(`mongodb://${host}/admin?directConnection=true&serverSelectionTimeoutMS=2000`);
    try {
      admin.runCommand({ replSetInitiate: set });
    } catch (error) {
      if (error.codeName !== "AlreadyInitialized") {
        throw error;
      }
    }
    if (!admin.hello().isWritablePrimary) {
      throw new Error("it has no primary yet");
    }
  });
  print(`${set._id}: ${host} is the primary`);
}

for (const set of sets.filter((set) => !set.configsvr)) {
  retry(`add ${set._id}`, () => {
    const admin = connect(`${router}?serverSelectionTimeoutMS=2000`);
    admin.runCommand({ addShard: `${set._id}/${set.members[0].host}`, name: set._id });
  });
  print(`${set._id}: a shard of the cluster`);
}
