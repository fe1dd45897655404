class Ocwatchd < Formula
  include Language::Python::Virtualenv

  desc "Keep OpenCode working when a model is rate limited"
  homepage "https://github.com/ocwatchd/ocwatchd"
  url "https://github.com/ocwatchd/ocwatchd/archive/refs/tags/v0.1.0.tar.gz"
  sha256 "0000000000000000000000000000000000000000000000000000000000000000"
  license "MIT"

  depends_on "python@3.13"

  def install
    virtualenv_create(libexec, "python3.13")
    system libexec/"bin/python", "-m", "pip", "install", buildpath
    bin.install_symlink libexec/"bin/ocwatch", libexec/"bin/ocwatchd", libexec/"bin/oc-smart"
    man1.install Dir["man/*.1"]
    generate_completions_from_executable(bin/"ocwatch", "completion")
  end

  def caveats
    "To set everything up for your user and start the daemon: ocwatch up"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/ocwatch --version")
  end
end
