// ocwatchd companion plugin, version 1
//
// Requests a decision about a refused attempt (OpenCode 2) from the daemon, over a socket in our private directory. If no
// daemon is running, or if its response is late or invalid, the plugin changes nothing.

import { closeSync, constants, lstatSync, openSync } from "node:fs"
import { connect } from "node:net"
import { join } from "node:path"

const ANSWER_TIMEOUT = 300 // ms within which the daemon must answer a question
const MAX_LINE = 64 << 10 // characters; an answer has about 200
const MAX_SOCKET_PATH = 103 // bytes; every system accepts this length
const VERDICTS = ["untouched", "move", "hold", "retry"]

export function part({ state, untrusted, isOurs, note }) {
  const path = join(state, "decisions.sock")

  /**
   * Resolve to the daemon's answer, `{verdict, model?, agent?, until?, later, done}`, or to undefined if no
   * answer arrives in time.
   *
   * After the verdict "hold", `later` resolves to the verdict that ends the hold, or to undefined if the connection
   * closes before that. `done(report)` reports what was done and closes the connection, unless the report announces
   * another one (`report.later`).
   */
  function ask(question) {
    if (!isSocket()) return Promise.resolve(undefined)
    return new Promise((settle) => {
      const short = shortPath()
      const { promise: later, resolve: end } = Promise.withResolvers()
      let answered = false
      let text = ""
      const socket = connect(short.path)
      const stop = () => {
        clearTimeout(timer)
        short.close()
        socket.destroy()
        settle(undefined)
        end(undefined)
      }
      const timer = setTimeout(stop, ANSWER_TIMEOUT)
      const done = (report) => {
        end(undefined)
        const line = JSON.stringify(report) + "\n"
        if (report.later) return socket.write(line)
        socket.end(line)
        socket.setTimeout(ANSWER_TIMEOUT, stop)
      }
      socket.setEncoding("utf8")
      socket.on("connect", () => {
        short.close()
        socket.write(JSON.stringify(question) + "\n")
      })
      socket.on("error", stop)
      socket.on("close", stop)
      socket.on("data", (piece) => {
        text += piece
        if (text.length > MAX_LINE) return stop()
        for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n")) {
          const answer = understood(text.slice(0, at))
          text = text.slice(at + 1)
          if (!answer) return stop()
          if (answered) return end(answer)
          answered = true
          clearTimeout(timer)
          settle({ ...answer, later, done })
        }
      })
    })
  }

  /**
   * Return a path of the socket that is short enough for `connect`. A long path is replaced by one in /proc (Linux).
   */
  function shortPath() {
    if (Buffer.byteLength(path) <= MAX_SOCKET_PATH) return { path, close() {} }
    let directory = openSync(state, constants.O_RDONLY | constants.O_DIRECTORY)
    const close = () => {
      if (directory !== undefined) closeSync(directory)
      directory = undefined
    }
    return { path: `/proc/self/fd/${directory}/decisions.sock`, close }
  }

  /** Return whether the daemon's socket exists and is ours, because nothing is sent to another user's socket. */
  function isSocket() {
    try {
      const info = untrusted() ? undefined : lstatSync(path)
      return info?.isSocket() && isOurs(info.uid)
    } catch {
      return false // no daemon runs
    }
  }

  /** Parse a response; undefined if the response is invalid. */
  function understood(line) {
    try {
      const answer = JSON.parse(line)
      if (answer?.version === 1 && VERDICTS.includes(answer.verdict)) return answer
      throw new Error("the answer is not valid")
    } catch (fault) {
      note("decisions", fault)
    }
  }

  return { ask }
}
