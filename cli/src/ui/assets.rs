//! What a page consists of. It is a part of this program.

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// The media type and the text of what is found at this path.
pub(super) fn find(path: &str) -> Option<(&'static str, &'static str)> {
    Some(match path {
        "/" | "/index.html" => (HTML, include_str!("assets/index.html")),
        "/style.css" => (CSS, include_str!("assets/style.css")),
        "/icon.svg" => (SVG, include_str!("assets/icon.svg")),
        "/app.js" => (SCRIPT, include_str!("assets/app.js")),
        "/dom.js" => (SCRIPT, include_str!("assets/dom.js")),
        "/list.js" => (SCRIPT, include_str!("assets/list.js")),
        "/lock.js" => (SCRIPT, include_str!("assets/lock.js")),
        "/timeline.js" => (SCRIPT, include_str!("assets/timeline.js")),
        "/graph.js" => (SCRIPT, include_str!("assets/graph.js")),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATHS: [&str; 9] =
        ["/", "/style.css", "/icon.svg", "/app.js", "/dom.js", "/list.js", "/lock.js", "/timeline.js", "/graph.js"];

    #[test]
    fn everything_that_a_page_names_is_here() {
        for path in PATHS {
            let (_, text) = find(path).unwrap();
            let quoted = text.split(['"', '\'']).skip(1).step_by(2);
            let named = quoted.filter(|text| [".js", ".css", ".svg"].iter().any(|end| text.ends_with(end)));
            for name in named {
                assert!(find(&name.replacen("./", "/", 1)).is_some(), "{path} names {name}");
            }
        }
    }

    /// What is in a Lease is text. Whoever wrote it must not write the page.
    #[test]
    fn no_page_is_made_of_text() {
        for path in PATHS {
            let (_, text) = find(path).unwrap();
            for bad in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "srcdoc"]
            {
                assert!(!text.contains(bad), "{path} has {bad}");
            }
            let addresses =
                text.split("http").skip(1).filter(|rest| rest.starts_with("://") || rest.starts_with("s://"));
            for address in addresses {
                assert!(address.starts_with("://www.w3.org/2000/svg"), "{path} names http{address:.40}");
            }
        }
    }
}
