#!/bin/sh
# A task is a program: read parameters, say where you are, write outputs, exit 0. This may run more than once.
set -eu

# Parameters are JSON. With no JSON tool in the image sed will do, as the schema of definition.yaml bars quotes in `name`.
name=$(sed -n 's/.*"name" *: *"\([^"]*\)".*/\1/p' "$ASYNCTASK_PARAMETERS")
lines=$(sed -n 's/.*"lines" *: *\([0-9]*\).*/\1/p' "$ASYNCTASK_PARAMETERS")
lines=${lines:-5}

"$ASYNCTASK_AGENT" stage Greeting
if [ "$name" = nobody ]; then
  "$ASYNCTASK_AGENT" fail --code NobodyToGreet --message "There is nobody to greet. Give the name of a person."
  exit 65 # 64 to 78: wrong input, trying again would not help
fi

"$ASYNCTASK_AGENT" stage Writing
line=0
while [ "$line" -lt "$lines" ]; do
  line=$((line + 1))
  echo "$line. Hello, $name!" >>"$ASYNCTASK_OUTPUTS/report.txt"
  "$ASYNCTASK_AGENT" progress "$line" "$lines" --unit lines --message "Greeting $name"
  sleep 1 # stands for the real work
done
