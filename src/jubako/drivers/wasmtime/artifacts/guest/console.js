// The command line of `js`: options, script, exit status. Runs as a module, before the program and in its engine.
const [, ...words] = scriptArgs;
const USAGE = "usage: js [-e code | -p code | file | -] [argument] ...";
const running = new Set();
let idle = null;

function finished(timer) {
  running.delete(timer);
  if (!running.size && idle) idle();
}

// An error in a timer ends the program, as one outside of it does.
function called(call, values) {
  try { call(...values); } catch (error) { fail(uncaught(error), 1); }
}

globalThis.setTimeout = (call, delay = 0, ...values) => {
  const timer = os.setTimeout(() => { finished(timer); called(call, values); }, delay);
  running.add(timer);
  return timer;
};
globalThis.clearTimeout = (timer) => {
  if (running.has(timer)) { os.clearTimeout(timer); finished(timer); }
};
globalThis.setInterval = (call, delay = 0, ...values) => {
  const timer = os.setInterval(() => called(call, values), delay);
  running.add(timer);
  return timer;
};
globalThis.clearInterval = (timer) => {
  if (running.has(timer)) { os.clearInterval(timer); finished(timer); }
};

for (const name of ["error", "warn"]) {
  console[name] = (...values) => std.err.puts(values.map(shown).join(" ") + "\n");
}
for (const name of ["log", "info", "debug"]) {
  console[name] = (...values) => std.out.puts(values.map(shown).join(" ") + "\n");
}

function shown(value) {
  if (value instanceof Error) return described(value);
  if (typeof value !== "object" || value === null) return String(value);
  try { return JSON.stringify(value) ?? String(value); } catch { return String(value); }
}

function described(error) {
  // Without the frames of this file.
  const frames = (error.stack ?? "").split("\n").filter((line) => line.trim() && !line.includes("<cmdline>"));
  return [String(error), ...frames].join("\n");
}

function uncaught(error) {
  return error instanceof Error ? described(error) : `Uncaught ${shown(error)}`;
}

function fail(message, status) {
  std.out.flush();
  std.err.puts(`${message}\n`);
  std.err.flush();
  std.exit(status);
}

globalThis.process = Object.freeze({
  argv: ["js"],
  env: std.getenviron(),
  platform: "wasi",
  cwd: () => os.getcwd()[0],
  exit: (status = 0) => { std.out.flush(); std.exit(status); },
  stdout: { write: (text) => { std.out.puts(String(text)); return true; } },
  stderr: { write: (text) => { std.err.puts(String(text)); return true; } },
});

function absolute(path) {
  return path.startsWith("/") ? path : `${os.getcwd()[0]}/${path}`;
}

async function script(path) {
  const text = std.loadFile(path);
  if (text === null) fail(`js: can't open file '${path}'`, 2);
  if (path.endsWith(".mjs") || /^\s*(import\s*[\w{*"']|export\s)/m.test(text)) return import(absolute(path));
  try {
    return std.loadScript(path);
  } catch (error) {
    // Only a module may await at its top.
    if (error instanceof SyntaxError && /\bawait\b/.test(text)) return import(absolute(path));
    throw error;
  }
}

async function evaluated(code) {
  return (await std.evalScript(code, { async: true }))?.value;
}

function take(...words) {
  process.argv.push(...words);
  globalThis.scriptArgs = words;
}

async function main() {
  const [first, ...rest] = words;
  if (first === "--version" || first === "-v") return std.out.puts("QuickJS-NG @VERSION@\n");
  if (first === "--help" || first === "-h") return std.out.puts(`${USAGE}\n`);
  if (first === "-e" || first === "-p") {
    if (!rest.length) fail(`js: ${first} needs code\n${USAGE}`, 2);
    take(...rest.slice(1));
    const value = await evaluated(rest[0]);
    return first === "-p" ? console.log(value) : undefined;
  }
  if (first === undefined || first === "-") {
    take(...rest);
    return evaluated(std.in.readAsString());
  }
  if (first.startsWith("-")) fail(`js: unknown option ${first}\n${USAGE}`, 2);
  take(first, ...rest);
  return script(first);
}

const directory = std.getenv("PWD");
if (directory && os.chdir(directory) !== 0) std.err.puts(`js: can't use the working directory '${directory}'\n`);
try {
  await main();
  if (running.size) await new Promise((resolve) => { idle = resolve; });
} catch (error) {
  fail(uncaught(error), 1);
}
std.out.flush();
