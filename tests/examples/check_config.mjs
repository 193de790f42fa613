// Reads LibreChat's and Continue's configuration by their own schemas and prints what these know of
// it, so that a key which they would ignore is missing.
import { readFileSync } from "node:fs";
import { parseConfigYaml } from "@continuedev/config-yaml";
import { configSchema } from "librechat-data-provider";
import YAML from "yaml";

const [librechat, continueDev] = process.argv.slice(2).map((file) => readFileSync(file, "utf8"));
const known = {
  librechat: configSchema.strict().parse(YAML.parse(librechat)),
  continue: parseConfigYaml(continueDev),
};
console.log(JSON.stringify(known));
